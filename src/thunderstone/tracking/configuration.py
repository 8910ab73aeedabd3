"""The configuration a run is tracked with: every attached method and its arguments, as primitives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from torch import Tensor

from thunderstone.tracking.scalars import is_scalar, read

if TYPE_CHECKING:
    from thunderstone.attachment.method import Method


def configuration(methods: Sequence[Method]) -> dict[str, dict[str, Any]]:
    """Each method's arguments under its name, e.g. ``{"sam": {"rho": 0.05}}``.

    A second method of one name becomes ``name_2``, and so on, in the order of `trainer.callbacks`.
    """
    result: dict[str, dict[str, Any]] = {}
    for method in methods:
        name = key = method.name or type(method).__name__
        number = 1
        while key in result:
            number += 1
            key = f"{name}_{number}"
        result[key] = {argument: primitive(value) for argument, value in method.arguments.items()}
    return result


def names(methods: Sequence[Method]) -> list[str]:
    """The methods' names, each once, in order: the tags of the run."""
    return list(dict.fromkeys(method.name or type(method).__name__ for method in methods))


def primitive(value: Any) -> Any:
    """`value` in what JSON can express, the same in every run: no memory addresses, no NaN."""
    if value is None or (isinstance(value, (bool, int, str)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        # JSON has neither infinity nor NaN.
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, Mapping):
        return {str(key): primitive(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted((primitive(item) for item in value), key=str)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [primitive(item) for item in value]
    if is_scalar(value):
        return primitive(read(value))
    if isinstance(value, Tensor):
        return f"Tensor(shape={tuple(value.shape)}, dtype={value.dtype})"
    named = value if hasattr(value, "__qualname__") else type(value)
    described = f"{named.__module__}.{named.__qualname__}"
    # The default repr holds an address, which differs from run to run.
    return described if named is value or " at 0x" in repr(value) else repr(value)
