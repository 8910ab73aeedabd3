"""Quantiles of Student's t for whole degrees of freedom, which torch and the standard library lack."""

from __future__ import annotations

import math
from functools import lru_cache


@lru_cache(maxsize=4096)
def quantile(confidence: float, freedom: int) -> float:
    """The t with ``P(|T| < t) = confidence``, by bisection of `central_probability`.

    Args:
        confidence: In (0, 1).
        freedom: At least 1.
    """
    low, high = 0.0, 1.0
    while central_probability(high, freedom) < confidence:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if central_probability(middle, freedom) < confidence else (low, middle)
    return (low + high) / 2


def central_probability(t: float, freedom: int) -> float:
    """``P(|T| < t)``: the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom == 1:
        return 2 * angle / math.pi
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
