"""The documentation does not go stale: links lead somewhere, code compiles or runs, generated tables are current.

A block that opens with ```` ```python run ```` is executed, after the other such blocks of its document and in one
interpreter with them; every other Python block has to compile.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass
from urllib.parse import unquote

import pytest

from thunderstone.reference.methods_table import methods_table, specs_below, with_table

FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^[ \t]*(?P=fence)[ \t]*$", re.M | re.S
)
INLINE_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.S)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^()\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
HTML_SOURCE = re.compile(r"<(?:img|a)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.M)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.I)


@dataclass(frozen=True)
class Block:
    line: int
    runs: bool
    code: str


def python_blocks(text):
    for match in FENCE.finditer(text):
        language, *rest = match["info"].split() or [""]
        if language in {"python", "py"}:
            yield Block(text.count("\n", 0, match.start()) + 2, "run" in rest, textwrap.dedent(match["body"]))


def prose(text):
    """`text` without its code, where brackets mean something else."""
    return INLINE_CODE.sub("", FENCE.sub("", text))


def anchors(text):
    """The anchors a Markdown viewer gives the headings of `text`."""
    titles = (
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(FENCE.sub("", text))
    )
    seen = {}
    for title in titles:
        seen[title] = seen.get(title, -1) + 1
        yield f"{title}-{seen[title]}" if seen[title] else title


def broken_links(document):
    text = document.read_text(encoding="utf-8")
    for target in [*LINK.findall(prose(text)), *HTML_SOURCE.findall(prose(text))]:
        if ELSEWHERE.match(target):
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / unquote(path) if path else document
        if not file.exists():
            yield f"{target}: there is no {file}"
        elif anchor and file.suffix == ".md" and anchor not in set(anchors(file.read_text(encoding="utf-8"))):
            yield f"{target}: {file.name} has no such heading"


def test_links_lead_somewhere(document):
    assert list(broken_links(document)) == []


def test_code_compiles(document):
    for block in python_blocks(document.read_text(encoding="utf-8")):
        # An offset in blank lines, so that an error names the line of the document.
        compile("\n" * (block.line - 1) + block.code, str(document), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_code_that_says_so_runs(document, run_python):
    blocks = [block for block in python_blocks(document.read_text(encoding="utf-8")) if block.runs]
    source = ""
    for block in blocks:
        source += "\n" * (block.line - 1 - source.count("\n")) + block.code
    run_python(source)


def test_the_table_of_methods_is_current(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    assert with_table(text, methods_table(specs_below(root), root), "README.md") == text, "HINT: make docs-update"


# -- the checks themselves ---------------------------------------------------------------------------------------------


def test_broken_links_are_found(tmp_path):
    (tmp_path / "other.md").write_text("# A heading, here\n\n## Twice\n\n## Twice\n")
    document = tmp_path / "document.md"
    document.write_text(
        "[good](other.md) [good](other.md#a-heading-here) [good](other.md#twice-1) [out](https://example.org/x)\n"
        '`[code](not-a-link.md)` ![picture](missing.png) [bad](other.md#nowhere) <img src="gone.png">\n'
        "```python\nx = {}[0](missing)\n```\n"
    )
    assert [finding.partition(":")[0] for finding in broken_links(document)] == [
        "missing.png",
        "other.md#nowhere",
        "gone.png",
    ]


def test_blocks_are_found_where_they_stand():
    text = "text\n\n```python\na = 1\n```\n\n- item\n\n  ```python run\n  b = 2\n  ```\n\n```bash\nls\n```\n"
    assert list(python_blocks(text)) == [Block(4, False, "a = 1\n"), Block(10, True, "b = 2\n")]


def test_code_that_does_not_compile_is_found(tmp_path):
    document = tmp_path / "document.md"
    document.write_text("```python\nfor in range(3):\n```\n")
    with pytest.raises(SyntaxError):
        test_code_compiles(document)
