"""What the reference is told of docstrings: code that stands in one by itself, or below `Example:`, is an example."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^(\s*)Example:$", re.M)
_BARE = re.compile(r"^>>> .*(?:\n.+)*", re.M)


class Examples(griffe.Extension):
    """Renders examples as such, instead of as quotations."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = with_sections(obj.docstring.value)


def with_sections(docstring: str) -> str:
    """`docstring` with its examples in a section that readers of Google's style know."""
    docstring = _EXAMPLE.sub(r"\1Examples:", docstring)
    return _BARE.sub(lambda found: "Examples:\n" + textwrap.indent(found[0], "    "), docstring)
