"""Names that nothing else has: of files and folders that must not take the place of earlier ones."""

from __future__ import annotations

from itertools import count
from pathlib import Path


def claimed(folder: Path, name: str, suffix: str = "") -> Path:
    """Make ``folder/name``, or that with the first number from 2 on that is free, ``folder/name_2``; and return it.

    Made at once, so that of two processes that ask in one moment each has its own.

    Args:
        folder: It exists.
        name: Without its suffix.
        suffix: Of an empty file, e.g. ``".json"``; a folder is made where there is none.

    Raises:
        OSError: The folder cannot be written to.
    """
    for number in count(1):
        again = f"_{number}" if number > 1 else ""
        path = folder / f"{name}{again}{suffix}"
        try:
            path.touch(exist_ok=False) if suffix else path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError("count() never ends")
