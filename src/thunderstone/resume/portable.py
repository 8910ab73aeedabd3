"""Values that any checkpoint reader can load: tensors and primitives in dicts, lists and tuples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_PRIMITIVES = (bool, int, float, str, bytes, type(None))


def is_portable(value: Any) -> bool:
    """Whether ``torch.load(weights_only=True)`` gives the value back as it is."""
    if type(value) is dict:
        return all(type(key) in (str, int) and is_portable(inner) for key, inner in value.items())
    if type(value) in (list, tuple):
        return all(is_portable(inner) for inner in value)
    return type(value) in _PRIMITIVES or type(value) is Tensor


def detached(value: Any) -> Any:
    """The same structure with every tensor cut from its graph."""
    return map_tensors(value, Tensor.detach)


def map_tensors(value: Any, function: Any) -> Any:
    """The same structure with a function applied to every tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) is dict:
        return {key: map_tensors(inner, function) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map_tensors(inner, function) for inner in value)
    return value


def encode(value: Any) -> Any:
    """Nested dicts of numbers, strings and NumPy arrays (a bit generator's state) as a portable value.

    Integers beyond 64 bits (PCG64 has two of 128) become hexadecimal text.
    """
    if isinstance(value, dict):
        return {str(key): encode(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        signed = value.view(np.int64) if value.dtype == np.uint64 else value.astype(np.int64)
        return {"array": torch.from_numpy(signed.copy()), "dtype": value.dtype.name}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and value.bit_length() > 63:
        return {"hexadecimal": f"{value:x}"}
    return value


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if not isinstance(value, dict):
        return value
    if set(value) == {"array", "dtype"}:
        array = value["array"].cpu().numpy()
        return array.view(np.uint64) if value["dtype"] == "uint64" else array.astype(value["dtype"])
    if set(value) == {"hexadecimal"}:
        return int(value["hexadecimal"], 16)
    return {key: decode(inner) for key, inner in value.items()}
