"""The documentation does not go stale: links lead somewhere and generated tables are current.

What its blocks of code do is in `documents/test_blocks.py`.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from thunderstone.reference.methods_table import methods_table, specs_below, with_table

FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^[ \t]*(?P=fence)[ \t]*$", re.M | re.S
)
INLINE_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.S)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^()\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
HTML_SOURCE = re.compile(r"<(?:img|a)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.M)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.I)


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
