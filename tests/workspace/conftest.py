"""The workspace as its own tests see it: one parameter a package (`package`), one a document (`document`)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parents[2]
# Written by tools and users, never by hand.
GENERATED = frozenset(
    (".git", ".venv", ".oldest", "__pycache__", "build", "dist", "htmlcov", "runs", "wandb", "lightning_logs", "site")
)


@dataclass(frozen=True)
class Package:
    """A distribution of the workspace: the host, or a family under callbacks/ or plugins/."""

    directory: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        return tomllib.loads((self.directory / "pyproject.toml").read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        return str(self.settings["project"]["name"])

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")

    @property
    def source(self) -> Path:
        return self.directory / "src" / self.module

    @property
    def is_host(self) -> bool:
        return self.directory == ROOT

    def modules(self) -> list[Path]:
        return sorted(self.source.rglob("*.py"))


PACKAGES = [
    Package(path.parent)
    for path in [
        ROOT / "pyproject.toml",
        *sorted(ROOT.glob("callbacks/*/pyproject.toml")),
        *sorted(ROOT.glob("plugins/*/pyproject.toml")),
    ]
]


def written_files(*suffixes: str) -> Iterator[Path]:
    """The files of the repository with one of `suffixes`, without what tools have put there."""
    for folder, below, names in os.walk(ROOT):
        below[:] = sorted(name for name in below if name not in GENERATED)
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(suffixes))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "package" in metafunc.fixturenames:
        metafunc.parametrize("package", PACKAGES, ids=lambda package: package.name)
    if "family" in metafunc.fixturenames:
        families = [package for package in PACKAGES if not package.is_host]
        metafunc.parametrize("family", families, ids=lambda package: package.name)
    if "document" in metafunc.fixturenames:
        metafunc.parametrize("document", list(written_files(".md")), ids=lambda path: str(path.relative_to(ROOT)))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def packages() -> list[Package]:
    return PACKAGES


@pytest.fixture(scope="session")
def python_files() -> list[Path]:
    return list(written_files(".py"))


@pytest.fixture(scope="session")
def text_files() -> list[Path]:
    return list(written_files(".py", ".md", ".toml", ".txt", ".cff", ".yaml", ".yml", ".cfg", ".ini"))


@pytest.fixture
def run_python() -> Callable[[str], str]:
    """Run code in a fresh interpreter and return what it prints; a failure shows its standard error."""

    def run(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
