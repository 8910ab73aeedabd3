"""What counts as a scalar, how it is kept until it is written, and when it is read."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


def is_scalar(value: object) -> bool:
    """Whether `value` is one real number: Python's, NumPy's, or a tensor or array with a single element."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    if isinstance(value, (np.ndarray, np.generic)):
        return value.size == 1 and value.dtype.kind in "biuf"
    return isinstance(value, Real)


def taken(value: Any) -> Any:
    """What a record holds for `value`: a copy of a scalar, and anything else itself.

    A scalar that is spread over processes is left alone too; whoever writes it says why that cannot be.
    """
    if not is_scalar(value):
        return value
    try:
        return snapshot(value)
    except ValueError:
        return value


def snapshot(value: Any) -> Any:
    """A copy of a scalar that later in-place changes don't reach, made without waiting for the device.

    Raises:
        ValueError: The scalar is spread over processes; rank zero alone cannot read it.
    """
    if isinstance(value, Tensor):
        return whole(value).detach().clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def whole(value: Tensor) -> Tensor:
    """The tensor itself; of one that every process has (a DTensor), this process's.

    Raises:
        ValueError: It is spread over processes; rank zero alone cannot read it.
    """
    if type(value) is Tensor:
        return value
    # A DTensor, told by its placements: importing its class would load torch.distributed for everyone.
    placements = getattr(value, "placements", None)
    if placements is None:
        return value
    if not all(placement.is_replicate() for placement in placements):
        raise ValueError(f"a sharded tensor ({placements}) cannot be read by one rank; reduce it on all ranks")
    local: Tensor = value.to_local()  # type: ignore[attr-defined]
    return local


def monitored(value: Any) -> Tensor | None:
    """What `taken` returned as callbacks expect a metric that they monitor: a tensor without dimensions.

    None where it is no scalar, or one that this process does not have.
    """
    if not is_scalar(value):
        return None
    if isinstance(value, Tensor):
        if type(value) is not Tensor and getattr(value, "placements", None) is not None:
            return None
        return value if value.dim() == 0 else value.reshape(())
    return torch.tensor(read(value), dtype=torch.get_default_dtype())


def read(value: Any) -> float | int:
    """The number itself. For a tensor on a device this is the moment that waits for it."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        value = value.item()
    if isinstance(value, (bool, int)):
        return int(value)
    return float(value)


def cell(value: Any) -> Any:
    """A table's cell: scalars as plain numbers, everything else as it is."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and is_scalar(value):
        return value.item()
    return value
