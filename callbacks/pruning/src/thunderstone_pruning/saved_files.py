"""Reading what a run has left in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from thunderstone import ArgumentError


def read_saved(who: str, argument: str, path: str | Path, hint: str) -> Any:
    """What `torch.save` wrote to `path`, tensors and primitives, on the CPU.

    Args:
        who: Who asks, for messages.
        argument: Its argument that names the file.
        path: The file.
        hint: What to pass instead.

    Raises:
        ArgumentError: There is no such file, or it cannot be read.
    """
    if not Path(path).is_file():
        raise ArgumentError(who, argument, str(path), "there is no such file", hint)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Some errors say nothing beside their name.
        said = next(iter(str(error).splitlines()), "")
        reason = f"it cannot be read ({type(error).__name__}: {said})"
        raise ArgumentError(who, argument, str(path), reason, hint) from error


def of_callbacks(content: Any, key: str) -> list[Any]:
    """What each callback's state in a Lightning checkpoint holds under `key`, where it holds something."""
    callbacks = content.get("callbacks", {}) if isinstance(content, Mapping) else {}
    return [state[key] for state in callbacks.values() if isinstance(state, Mapping) and state.get(key)]
