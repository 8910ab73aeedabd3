"""What counts as a scalar, how it is kept until it is written, and when it is read."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor


def is_scalar(value: object) -> bool:
    """Whether `value` is one real number: Python's, NumPy's, or a tensor or array with a single element."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    if isinstance(value, (np.ndarray, np.generic)):
        return value.size == 1 and value.dtype.kind in "biuf"
    return isinstance(value, Real)


def snapshot(value: Any) -> Any:
    """A copy of a scalar that later in-place changes don't reach, made without waiting for the device.

    Raises:
        ValueError: The scalar is spread over processes; rank zero alone cannot read it.
    """
    if isinstance(value, Tensor):
        # A DTensor, told by its placements: importing its class would load torch.distributed for everyone.
        placements = getattr(value, "placements", None)
        if placements is not None:
            if not all(placement.is_replicate() for placement in placements):
                raise ValueError(f"a sharded tensor ({placements}) cannot be read by one rank; reduce it on all ranks")
            value = value.to_local()  # type: ignore[attr-defined]
        return value.detach().clone()
    return value.copy() if isinstance(value, np.ndarray) else value


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
