"""A value known up to sampling error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean over independent draws; `float(estimate)` is its value.

    Attributes:
        value: The mean.
        standard_error: Standard deviation of the mean; NaN with a single draw.
        draws: Number of independent draws.
    """

    value: float
    standard_error: float
    draws: int

    def __float__(self) -> float:
        return self.value

    @classmethod
    def of(cls, draws: Sequence[float]) -> Estimate:
        """The mean of `draws`, at least one, and its standard error."""
        count = len(draws)
        mean = math.fsum(draws) / count
        if count == 1:
            return cls(mean, math.nan, 1)
        variance = math.fsum((draw - mean) ** 2 for draw in draws) / (count - 1)
        return cls(mean, math.sqrt(variance / count), count)
