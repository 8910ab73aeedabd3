"""The files of a new package, written all or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from thunderstone.template.facts import Facts
from thunderstone.template.naming import PackageNames

# From where a file of the template is to where it goes. Dots in front are added here: a `.gitignore` in the template
# would be obeyed by whatever builds or searches this package.
_FILES = {
    "pyproject.toml.jinja": "pyproject.toml",
    "README.md.jinja": "README.md",
    "LICENSE.jinja": "LICENSE",
    "gitignore.jinja": ".gitignore",
    "workflow.yml.jinja": ".github/workflows/tests.yml",
    "package.py.jinja": "src/{module}/__init__.py",
    "plugin.py.jinja": "src/{module}/plugin.py",
    "method.py.jinja": "src/{module}/{method}.py",
    "conformance.py.jinja": "src/{module}/conformance.py",
    "py.typed.jinja": "src/{module}/py.typed",
    "test_method.py.jinja": "tests/test_{method}.py",
    "test_conformance.py.jinja": "tests/test_conformance.py",
}


def rendered(names: PackageNames, facts: Facts) -> dict[str, str]:
    """The texts of a package by their path in it, with slashes."""
    environment = Environment(
        loader=PackageLoader("thunderstone.template", "files"),
        autoescape=False,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A basic string of TOML is written as one of JSON, but for the one control character that JSON leaves alone.
    environment.filters["quoted"] = lambda text: json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    places = {"module": names.module, "method": names.method}
    return {
        place.format_map(places): environment.get_template(file).render(names=names, facts=facts)
        for file, place in _FILES.items()
    }


def write_package(texts: Mapping[str, str], folder: Path) -> None:
    """Write the files into a new folder, which is there with all of them or is not there.

    They are written beside it first and the finished folder is renamed, so that neither an error nor Ctrl-C leaves a
    part of it. Signals that end a process at once wait until it is done.

    Args:
        texts: From `rendered`.
        folder: What is to be made; the folder it lies in exists.

    Raises:
        OSError: It exists, or cannot be written.
    """
    if os.path.lexists(folder):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
    with _undisturbed():
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            # One below: the temporary folder itself is closed to everybody else.
            package = beside / folder.name
            for place, text in texts.items():
                path = package / place
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
            package.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """SIGTERM and SIGHUP, which would end the process without a `finally`, do what they do after the block."""
    received: list[int] = []
    earlier: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            if signal.getsignal(number) == signal.SIG_DFL:
                earlier[number] = signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
