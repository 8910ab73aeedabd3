"""The code blocks of a Markdown document, and what is to be done with each.

| Fence | What happens |
| --- | --- |
| ```` ```python ```` | it runs, after the other blocks of its document and in one process with them |
| ```` ```python norun: reason ```` | it compiles; the reason says why it cannot run |
| ```` ```python title="train.py" ```` | it becomes that file, for commands and blocks below it |
| ```` ```bash ```` | each command runs where what it names is there, and has to be one its program understands |
| ```` ```bash norun: reason ```` | each command has to be one its program understands |
| ```` ```yaml ```` | it parses; with a ``trainer:`` in it, LightningCLI trains with it |
| ```` ```yaml norun: reason ```` | it parses |

A comment ``<!-- setup: NAME -->`` in the document puts the names of ``setups/NAME.py`` before its first block, and a
``train.py`` and a ``main.py`` (for LightningCLI) that train that module into its folder.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^[ \t]*(?P=fence)[ \t]*$", re.M | re.S
)
SETUP = re.compile(r"^<!-- setup: (\w+) -->$", re.M)
_TITLE = re.compile(r'\btitle="([^"]+)"')
_NORUN = re.compile(r"\bnorun:\s*(.*)$")
LANGUAGES = frozenset({"python", "bash", "yaml"})


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: The line of the document its first line of code is.
        language: What stands first after the fence; empty where nothing does.
        code: Its text, without the indentation of the fence.
        title: The file it is written to, if any.
        reason: Why it is not run; None where it is.
        unknown: What else stands after the fence, which nothing here understands.
    """

    line: int
    language: str
    code: str
    title: str | None = None
    reason: str | None = None
    unknown: str = ""


def blocks_of(text: str) -> Iterator[Block]:
    """The fenced blocks of `text`, in order."""
    for match in FENCE.finditer(text):
        language, _, rest = match["info"].strip().partition(" ")
        title, reason = _TITLE.search(rest), _NORUN.search(rest)
        left = _NORUN.sub("", _TITLE.sub("", rest)).strip()
        yield Block(
            line=text.count("\n", 0, match.start()) + 2,
            language={"py": "python", "sh": "bash", "shell": "bash", "yml": "yaml"}.get(language, language),
            code=textwrap.dedent(match["body"]),
            title=title[1] if title else None,
            reason=reason[1].strip() if reason else None,
            # Running is the default, and may be said.
            unknown="" if left == "run" else left,
        )


def setup_of(text: str) -> str | None:
    """The name of the set-up a document asks for."""
    found = SETUP.search(text)
    return found[1] if found else None


def commands(code: str) -> Iterator[tuple[int, str]]:
    """The commands of a block of shell: the offset of each one's first line, and its text on one line."""
    pending, begun = "", 0
    for offset, line in enumerate(code.splitlines()):
        begun = begun if pending else offset
        pending += line.rstrip()
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        if pending.strip() and not pending.lstrip().startswith("#"):
            yield begun, pending.strip()
        pending = ""


def steps(text: str) -> list[dict[str, object]]:
    """What `page_server.py` is asked to do for a document, in order."""
    found: list[dict[str, object]] = []
    for block in blocks_of(text):
        if block.title is not None:
            found.append({"kind": "file", "line": block.line, "name": block.title, "text": block.code})
        elif block.language == "python" and block.reason is None:
            found.append({"kind": "python", "line": block.line, "text": block.code})
        elif block.language == "bash":
            found += [
                {"kind": "command", "line": block.line + offset, "text": command, "check": block.reason is not None}
                for offset, command in commands(block.code)
            ]
        elif block.language == "yaml":
            found.append({"kind": "yaml", "line": block.line, "text": block.code, "check": block.reason is not None})
    return found
