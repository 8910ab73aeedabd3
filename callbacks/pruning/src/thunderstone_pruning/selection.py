"""The k largest of many tensors together, exactly, without sorting or copying them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

_DIGIT_BITS = 16
_DIGITS = 1 << _DIGIT_BITS
# On a processor a piece this size stays in the cache while it is looked at several times.
_PIECE = 1 << 18
# Below this size a look at a sample does not pay.
_SAMPLED_FROM = 1 << 20
_SAMPLE = 1 << 16

Pieces = Callable[[], Iterable[Tensor]]


@dataclass(frozen=True)
class Threshold:
    """Where the k largest end.

    Attributes:
        value: The k-th largest value, 0-d, on the CPU.
        above: How many values are larger; less than k.
        equal: How many are equal to it; `above` + `equal` is at least k.
    """

    value: Tensor
    above: int
    equal: int


def kth_largest(tensors: Sequence[Tensor], k: int, where: Sequence[Tensor] | None = None) -> Threshold:
    """The k-th largest of all values together, with how many are larger and how many are equal.

    Exact, the same on every device, and linear in time; the values are not copied. A sample says between which two
    values the k-th most probably lies; one pass counts what is above and sets aside what is between them, where it is
    found by radix selection. Where the sample misled, the radix selection goes through all values.

    Args:
        tensors: Real floating-point tensors of any shapes, without NaN.
        k: From 1 to the number of values.
        where: Bool tensors parallel to `tensors`: which values count. None is all of them.
    """
    wide = widest(tensors)
    masks: list[Tensor | None] = [None] * len(tensors) if where is None else list(where)

    def pieces() -> Iterator[Tensor]:
        for tensor, mask in zip(tensors, masks, strict=True):
            for piece in _pieces(tensor, mask):
                yield piece.to(wide)

    size = sum(tensor.numel() for tensor in tensors)
    if size >= _SAMPLED_FROM:
        stride = size // _SAMPLE
        sample = torch.cat([piece.cpu() for piece in _strided(tensors, masks, stride, wide)])
        low, high = _bracket(sample, k * len(sample) / _counted(tensors, masks))
        above, between = _within(pieces(), low, high)
        if above < k <= above + sum(piece.numel() for piece in between):
            return _radix_select(lambda: between, k, above, wide)
    return _radix_select(pieces, k, 0, wide)


def widest(tensors: Sequence[Tensor]) -> torch.dtype:
    """float64 when a tensor is, otherwise float32, which holds every half-precision number exactly."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _radix_select(pieces: Pieces, k: int, above: int, dtype: torch.dtype) -> Threshold:
    """The k-th largest, of which `above` are not among the pieces.

    Floating-point numbers are ordered as integers made of their bits, so that counting their upper 16 bits tells which
    of 65,536 intervals holds the k-th, and only what lies there is looked at for the next 16.
    """
    top = torch.finfo(dtype).bits - _DIGIT_BITS
    prefix = equal = 0
    candidates: Iterable[Tensor] = map(_ordered, pieces())
    for shift in range(top, -1, -_DIGIT_BITS):
        # The uppermost digit carries the sign.
        offset = _DIGITS // 2 if shift == top else 0
        histogram = torch.zeros(_DIGITS, dtype=torch.int64)
        for key in candidates:
            digit = (key >> shift) + offset if offset else (key >> shift) & (_DIGITS - 1)
            histogram += torch.bincount(digit, minlength=_DIGITS).cpu()
        descending = histogram.flip(0).cumsum(0)
        place = int(torch.searchsorted(descending, k - above))
        found = _DIGITS - 1 - place
        equal = int(histogram[found])
        above += int(descending[place]) - equal
        prefix = found - offset if offset else (prefix << _DIGIT_BITS) | found
        if shift:
            source = map(_ordered, pieces()) if shift == top else candidates
            candidates = [key[(key >> shift) == prefix] for key in source]
    return Threshold(_from_ordered(prefix, dtype), above, equal)


def _pieces(tensor: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
    flat = tensor.detach().reshape(-1)
    chosen = None if mask is None else mask.reshape(-1)
    step = _PIECE if flat.device.type == "cpu" else max(flat.numel(), 1)
    for start in range(0, flat.numel(), step):
        piece = flat[start : start + step]
        yield piece if chosen is None else piece[chosen[start : start + step]]


def _strided(
    tensors: Sequence[Tensor], masks: Sequence[Tensor | None], stride: int, dtype: torch.dtype
) -> Iterator[Tensor]:
    for tensor, mask in zip(tensors, masks, strict=True):
        values = tensor.detach().reshape(-1)[::stride].to(dtype)
        yield values if mask is None else values[mask.reshape(-1)[::stride]]


def _counted(tensors: Sequence[Tensor], masks: Sequence[Tensor | None]) -> int:
    return sum(
        tensor.numel() if mask is None else int(torch.count_nonzero(mask))
        for tensor, mask in zip(tensors, masks, strict=True)
    )


def _bracket(sample: Tensor, rank: float) -> tuple[float, float]:
    """Two values between which the one of this (falling) rank lies, but for a chance of one in millions."""
    size = len(sample)
    share = min(1.0, rank / max(size, 1))
    margin = 5 * sqrt(size * share * (1 - share)) + 5
    falling = sample.sort(descending=True).values
    first, last = int(rank - margin), int(rank + margin) + 1
    high = float(falling[first]) if first >= 0 and size else torch.inf
    low = float(falling[last]) if last < size else -torch.inf
    return low, high


def _within(pieces: Iterable[Tensor], low: float, high: float) -> tuple[int, list[Tensor]]:
    """How many values are above `high`, and those from `low` to `high`."""
    above, between = 0, []
    for piece in pieces:
        upper = piece >= low
        inside = piece[upper & (piece <= high)]
        above += int(torch.count_nonzero(upper)) - inside.numel()
        between.append(inside)
    return above, between


def _ordered(values: Tensor) -> Tensor:
    """Integers in the order of the values; -0.0 and 0.0 are one."""
    kind = torch.int64 if values.dtype == torch.float64 else torch.int32
    bits = (values + 0.0).view(kind)
    return bits ^ ((bits >> (torch.iinfo(kind).bits - 1)) & torch.iinfo(kind).max)


def _from_ordered(key: int, dtype: torch.dtype) -> Tensor:
    kind = torch.int64 if dtype == torch.float64 else torch.int32
    bits = key if key >= 0 else key ^ torch.iinfo(kind).max
    return torch.tensor(bits, dtype=kind).view(dtype)
