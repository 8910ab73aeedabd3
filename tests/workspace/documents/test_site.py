"""The site: built with every warning an error, readable without a network, with a place for every public name."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module

import pytest
from public_modules import MODULES


def _hook(root, name):
    specification = importlib.util.spec_from_file_location(name, root / "docs" / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def pages(root):
    return _hook(root, "repository_pages")


# -- the links ---------------------------------------------------------------------------------------------------------


def test_links_that_leave_docs_lead_to_pages(pages):
    text = "[a](../../README.md#two-commands) [b](sam.md) [c](../../examples/label_noise.py) `[d](../../README.md)`"
    assert pages.with_site_links("methods/asam.md", text) == (
        "[a](../repository/README.md#two-commands) [b](sam.md) [c](../repository/examples/label_noise.py.md) "
        "`[d](../../README.md)`"
    )


def test_pages_of_the_repository_link_back(pages):
    text = "![demo](docs/images/demo.png) [card](docs/methods/sam.md) [out](https://example.org) [C](CONTRIBUTING.md)"
    assert pages.with_site_links("repository/README.md", text) == (
        "![demo](../images/demo.png) [card](../methods/sam.md) [out](https://example.org) [C](CONTRIBUTING.md)"
    )


def test_a_file_that_is_no_document_is_shown_as_code(pages):
    text = pages.page_text("examples/sweep.yaml")
    assert text.startswith("# examples/sweep.yaml\n\n```yaml\n")
    assert pages.page_path(pages.page_uri("examples/sweep.yaml")) == "examples/sweep.yaml"
    assert pages.page_path(pages.page_uri("benchmarks/RESULTS.md")) == "benchmarks/RESULTS.md"


def test_words_for_the_tests_are_not_shown(pages):
    class Page:
        class file:
            src_uri = "index.md"

    text = '<!-- setup: classifier -->\n\n```python norun: no GPU\na\n```\n\n```python title="x.py" run\nb\n```\n'
    shown = pages.on_page_markdown(text, page=Page, config=None, files=None)
    assert shown == '\n```python\na\n```\n\n```python title="x.py"\nb\n```\n'


def test_every_page_stands_in_the_navigation_once(root):
    navigation = (root / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"[\w/]+\.md$", navigation, re.MULTILINE)
    folder = root / "docs"
    there = [document.relative_to(folder).as_posix() for document in folder.rglob("*.md")]
    assert sorted(listed) == sorted(there)


def test_examples_of_docstrings_are_sections(root):
    with_sections = _hook(root, "docstring_sections").with_sections
    assert with_sections("One.\n\n>>> one()\n1\n") == "One.\n\nExamples:\n    >>> one()\n    1\n"
    assert with_sections("One.\n\nExample:\n    >>> one()\n") == "One.\n\nExamples:\n    >>> one()\n"


# -- the site itself ---------------------------------------------------------------------------------------------------


class _Resources(HTMLParser):
    """What a page fetches, and the ids it has."""

    def __init__(self):
        super().__init__()
        self.fetched, self.ids = [], set()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if given.get("id"):
            self.ids.add(given["id"])
        if tag in {"script", "img", "iframe", "source"} and given.get("src"):
            self.fetched.append(given["src"])
        if tag == "link" and given.get("rel") != "canonical" and given.get("href"):
            self.fetched.append(given["href"])


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=root,
        env={"PATH": "", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    read = {}
    for path in sorted(folder.rglob("*.html")):
        parser = _Resources()
        parser.feed(path.read_text(encoding="utf-8"))
        read[str(path.relative_to(folder))] = parser
    return folder, read


@pytest.mark.slow
def test_the_site_is_whole(site, root):
    folder, read = site
    for document in (root / "docs").rglob("*.md"):
        page = document.relative_to(root / "docs").with_suffix(".html")
        assert str(page) in read, f"{document} has no page"
    assert (folder / "repository" / "index.html").is_file()
    assert (folder / "repository" / "benchmarks" / "RESULTS.html").is_file()
    assert len((folder / "search" / "search_index.js").read_text(encoding="utf-8")) > 100_000

    # Nothing is fetched from elsewhere, and what is fetched is there.
    for name, page in read.items():
        for target in page.fetched:
            assert not re.match(r"(https?:)?//", target), f"{name} fetches {target}"
            if not target.startswith("data:") and name != "404.html":
                assert (folder / name).parent.joinpath(re.sub(r"[?#].*", "", target)).exists(), f"{name}: {target}"
    for sheet in folder.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?https?:", sheet.read_text(encoding="utf-8")), sheet

    # Every public name has a place that others can link to.
    reference = set().union(*(page.ids for name, page in read.items() if name.startswith("reference/")))
    public = {(module, name) for module in MODULES for name in import_module(module).__all__}
    placeless = [
        f"{module}.{name}"
        for module, name in sorted(public)
        if not reference & {f"{module}.{name}", f"thunderstone.errors.{name}"}
    ]
    assert not placeless, f"HINT: put them on a page of docs/reference: {placeless}"
