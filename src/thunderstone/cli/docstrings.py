"""Google-style docstrings in parts: what a class does, and what its sections say."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field

_SECTION = re.compile(r"([A-Z][A-Za-z ]*):\s*\Z")
_ITEM = re.compile(r"(\*{0,2}\w+)\s*(?:\([^)]*\))?:\s*(.*)\Z")


@dataclass
class Docstring:
    """A docstring in parts.

    Attributes:
        text: The prose before the first section.
        sections: Heading → text, dedented, e.g. ``{"Raises": "ValueError: …"}``.
    """

    text: str = ""
    sections: dict[str, str] = field(default_factory=dict)

    def items(self, heading: str) -> dict[str, str]:
        """The ``name: description`` entries of a section, each description on one line."""
        found: dict[str, str] = {}
        name = ""
        for line in self.sections.get(heading, "").splitlines():
            match = _ITEM.match(line)
            if match:
                name = match[1].lstrip("*")
                found[name] = match[2]
            elif name and line.strip():
                found[name] = f"{found[name]} {line.strip()}".strip()
        return found


def parse_docstring(text: str | None) -> Docstring:
    """Split a docstring at its headings (``Args:`` and the like, alone on an unindented line)."""
    parts: dict[str, list[str]] = {"": []}
    heading = ""
    for line in inspect.cleandoc(text or "").splitlines():
        match = _SECTION.match(line)
        if match:
            heading = match[1]
            parts.setdefault(heading, [])
        elif heading and line and not line[0].isspace():  # unindented text ends a section
            heading = ""
            parts[""].extend(["", line])
        else:
            parts[heading].append(line)
    prose = re.sub(r"\n{3,}", "\n\n", "\n".join(parts.pop(""))).strip()
    return Docstring(prose, {name: inspect.cleandoc("\n" + "\n".join(lines)).strip() for name, lines in parts.items()})
