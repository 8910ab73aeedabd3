"""The workspace as its own tests see it: one parameter a package (`package`), one a document (`document`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

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


# A distribution as a stranger would publish it: not a part of the workspace, and never installed in its environment.
THIRD_PARTY = Package(ROOT / "examples" / "plugin-package")

_BUILD = """
import os, sys
from hatchling.build import build_wheel

for directory in sys.argv[2:]:
    os.chdir(directory)
    build_wheel(sys.argv[1])
"""


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


@pytest.fixture(scope="session")
def third_party() -> Package:
    return THIRD_PARTY


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Have a folder made by whichever of several test processes asks for it first, and used by all of them."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        path, finished = shared / name, shared / f"{name}.finished"
        with FileLock(shared / f"{name}.lock"):
            if not finished.exists():
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir()
                make(path)
                finished.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def build_wheels() -> Callable[..., None]:
    """Builds wheels of source folders in one process, as any installer has the build backend do it."""

    def build(into: Path, *directories: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-c", _BUILD, str(into), *map(str, directories)],
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr

    return build


@pytest.fixture(scope="session")
def wheels(once: Callable[..., Path], build_wheels: Callable[..., None]) -> Path:
    """A folder with the wheels of all packages of the workspace, and of the third-party one."""
    directories = [package.directory for package in (*PACKAGES, THIRD_PARTY)]
    return once("wheels", lambda folder: build_wheels(folder, *directories))
