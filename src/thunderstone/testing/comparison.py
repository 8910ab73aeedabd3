"""Comparing what two runs end with, to the last bit, in words that say where they part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from thunderstone.testing.outcome import CheckFailure

_SHOWN = 4
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and sequences as one mapping from dotted path to leaf."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat.update(flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def differences(expected: Any, actual: Any) -> list[str]:
    """One line for each leaf that is not the same in both, to the last bit: -0.0 is not 0.0, and any NaN equals any."""
    left, right = flatten(expected), flatten(actual)
    lines = [f"{path} is missing" for path in left if path not in right]
    lines += [f"{path} is there in addition" for path in right if path not in left]
    for path, value in left.items():
        if path in right and (line := _difference(value, right[path])) is not None:
            lines.append(f"{path}: {line}")
    return lines


def require_same(where: str, what: str, expected: Any, actual: Any, hint: str = "") -> None:
    """Raise CheckFailure unless the two are the same to the last bit.

    Args:
        where: Where in the kit this is, e.g. ``"mlp"``.
        what: What should have been the same, e.g. ``"neutral setting against no method"``.
        expected: Nested mappings and sequences of tensors and primitives.
        actual: The same.
        hint: What the author may have missed.
    """
    lines = differences(expected, actual)
    if lines:
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        advice = f". HINT: {hint}" if hint else ""
        raise CheckFailure(f"[{where}] {what} differs: {'; '.join(lines[:_SHOWN])}{more}{advice}")


def same(expected: Any, actual: Any) -> bool:
    """Whether the two are the same to the last bit."""
    return not differences(expected, actual)


def _difference(left: Any, right: Any) -> str | None:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return _tensor_difference(left, right)
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        return f"{_shown(left)} became {_shown(right)}"
    if left != left and right != right:
        return None
    # Of a number every bit is in its text; two zeros that differ by their sign are equal.
    equal = repr(left) == repr(right) if isinstance(left, (float, complex)) else left == right
    return None if type(left) is type(right) and equal else f"{_shown(left)} became {_shown(right)}"


def _tensor_difference(left: Tensor, right: Tensor) -> str | None:
    left, right = left.detach().cpu(), right.detach().cpu()
    if left.shape != right.shape or left.dtype != right.dtype:
        return f"{_shown(left)} became {_shown(right)}"
    unequal = _unequal(left, right)
    count = int(unequal.sum())
    if count == 0:
        return None
    wide = torch.complex128 if left.is_complex() else torch.float64
    largest = (left.to(wide) - right.to(wide)).abs().nan_to_num(nan=torch.inf)[unequal].max().item()
    by = f"the largest difference is {largest:.3g}" if largest else "by the sign of a zero"
    return f"{count} of {left.numel()} entries differ, {by}"


def _unequal(left: Tensor, right: Tensor) -> Tensor:
    """Where two tensors of one type and shape differ in any bit, but for two NaN."""
    if left.is_complex():
        parts = (torch.view_as_real(each.resolve_conj()) for each in (left, right))
        return _unequal(*parts).any(-1)
    if not left.is_floating_point():
        return left != right
    bits = _BITS[left.element_size()]
    same_bits = left.resolve_neg().view(bits) == right.resolve_neg().view(bits)
    return ~same_bits & ~(left.isnan() & right.isnan())


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        if value.numel() == 1:
            return repr(value.item())
        return f"tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
