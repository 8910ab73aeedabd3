"""How the sources are cut: sizes, names, and nothing that only exists on one machine."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess

import pytest

LONGEST_MODULE = 500
MEDIAN_MODULE = 200
CATCH_ALL_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
PLACE_OF_A_MACHINE = re.compile(r"(?<![\w.:~/])/(?:home|root|work|Users)/\w")


def _lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_module_is_too_long(python_files, root):
    long = {str(path.relative_to(root)): _lines(path) for path in python_files if _lines(path) > LONGEST_MODULE}
    assert not long, f"over {LONGEST_MODULE} lines: split by concern: {long}"


def test_the_median_module_is_small(packages):
    lengths = [_lines(path) for package in packages for path in package.modules() if path.name != "__init__.py"]
    assert len(lengths) > 10
    assert statistics.median(lengths) < MEDIAN_MODULE


def test_no_file_is_named_after_nothing_in_particular(python_files, root):
    named = [
        str(path.relative_to(root))
        for path in python_files
        if CATCH_ALL_NAMES.intersection(path.relative_to(root).with_suffix("").parts)
    ]
    assert not named, f"a thing lives where it is used, or gets a name: {named}"


def test_every_folder_of_a_package_is_a_package(package):
    folders = {path.parent for path in package.modules()}
    assert folders, f"{package.name} has no sources at {package.source}"
    bare = [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]
    assert not bare, f"without __init__.py, so not in every wheel and not seen by mypy: {bare}"


def test_no_text_names_a_place_of_one_machine(text_files, root):
    found = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in text_files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PLACE_OF_A_MACHINE.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "names_a_place"),
    [
        ("/".join(["cd ", "home", "someone"]), True),  # put together, so that this file names no place itself
        ("see https://example.org/home/page", False),
        ("../work/shared", False),
        ("the work/home balance", False),
    ],
)
def test_the_pattern_for_places_sees_what_it_should(text, names_a_place):
    assert bool(PLACE_OF_A_MACHINE.search(text)) is names_a_place


def test_git_ignores_no_source(root, packages):
    """`runs/` or `wandb/` in .gitignore would also hide a package of that name, from git and from the wheel."""
    if shutil.which("git") is None or not (root / ".git").exists():
        pytest.skip("not a git checkout")
    folders = [str(package.directory / part) for package in packages for part in ("src", "tests")]
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "--", *folders],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    hidden = [path for path in listed if path.endswith((".py", ".typed", ".md", ".toml"))]
    assert not hidden
