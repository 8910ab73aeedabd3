"""What mkdocs is told about this repository: documents link to each other as they do on the code host.

A link from docs/ to a file outside of it (the README, a benchmark's results, an example) leads to a page of the site
that is made of that file: Markdown as it is, anything else as code. Only files that some page links to become pages.
Words after a fence's language that are for the tests of the blocks are left out, as are comments that name a set-up.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs"
PAGES = "repository"
LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}

_CODE = re.compile(r"^[ \t]*(`{3,}|~{3,}).*?^[ \t]*\1[ \t]*$|(`+)(?!`).+?(?<!`)\2(?!`)", re.M | re.S)
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()\s*<?([^()\s>]+)>?((?:\s+\"[^\"]*\")?\s*\))")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//|#", re.I)
_FENCE = re.compile(r"^([ \t]*(?:`{3,}|~{3,})\w+)((?:[ \t]+title=\"[^\"]*\")?)[^\n`]*$", re.M)
_SETUP = re.compile(r"^<!-- setup: \w+ -->\n", re.M)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file of the repository that a page links to, and that is not below docs/."""
    waiting = [(page_path(file.src_uri), file.content_string) for file in files.documentation_pages()]
    made: set[str] = set()
    while waiting:
        path, text = waiting.pop()
        for target in sorted(set(outside_links(path, text)) - made):
            made.add(target)
            content = page_text(target)
            files.append(File.generated(config, page_uri(target), content=content))
            if target.endswith(".md"):
                waiting.append((target, content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page, and leave out what is for tests."""
    return _FENCE.sub(r"\1\2", with_site_links(page.file.src_uri, _SETUP.sub("", markdown)))


def page_path(uri: str) -> str:
    """The file of the repository that the page `uri` is made of, relative to the root."""
    if not uri.startswith(PAGES + "/"):
        return f"{DOCS}/{uri}"
    path = uri.removeprefix(PAGES + "/")
    return path if (ROOT / path).is_file() else path.removesuffix(".md")


def page_uri(path: str) -> str:
    """The page of the site that a file of the repository becomes."""
    if path.startswith(DOCS + "/"):
        return path.removeprefix(DOCS + "/")
    return f"{PAGES}/{path}" if path.endswith(".md") else f"{PAGES}/{path}.md"


def page_text(path: str) -> str:
    """The Markdown of the page for the file `path`."""
    text = (ROOT / path).read_text(encoding="utf-8")
    suffix = PurePosixPath(path).suffix
    if suffix == ".md":
        return text
    fence = "`" * (max((len(run) for run in re.findall(r"`{3,}", text)), default=2) + 1)
    return f"# {path}\n\n{fence}{LANGUAGES.get(suffix, 'text')}\n{text.rstrip()}\n{fence}\n"


def outside_links(path: str, text: str) -> list[str]:
    """The files outside of docs/ to which the document at `path` links."""
    targets = (_resolved(path, match[2])[0] for match in _links(text))
    return [target for target in targets if not target.startswith(DOCS + "/") and (ROOT / target).is_file()]


def with_site_links(uri: str, markdown: str) -> str:
    """`markdown` with the links that leave docs/, or that begin outside of it, turned into links of the site."""
    path = page_path(uri)
    pieces, end = [], 0
    for match in _links(markdown):
        target, anchor = _resolved(path, match[2])
        if (path.startswith(DOCS + "/") and target.startswith(DOCS + "/")) or not (ROOT / target).is_file():
            continue  # mkdocs knows it, or says that it does not
        link = posixpath.relpath(page_uri(target), posixpath.dirname(uri) or ".")
        pieces += [markdown[end : match.start(2)], link + anchor]
        end = match.end(2)
    return "".join([*pieces, markdown[end:]])


def _links(text: str) -> list[re.Match[str]]:
    """The links within the repository, without those that stand in code."""
    code = [match.span() for match in _CODE.finditer(text)]
    return [
        match
        for match in _LINK.finditer(text)
        if not _ELSEWHERE.match(match[2]) and not any(begin <= match.start(2) < end for begin, end in code)
    ]


def _resolved(path: str, link: str) -> tuple[str, str]:
    file, hash_, anchor = link.partition("#")
    return os.path.normpath(posixpath.join(posixpath.dirname(path), file)), hash_ + anchor
