"""Bounds of numbers, and the words for them."""

from __future__ import annotations

from typing import Any

import pytest

from thunderstone import ArgumentError
from thunderstone.arguments import finite


@pytest.mark.parametrize(
    ("value", "bounds", "said"),
    [
        (1.0, {"minimum": 0, "below": 1}, "at least 0 and below 1"),
        (-0.1, {"minimum": 0, "below": 1}, "at least 0 and below 1"),
        (0.0, {"above": 0, "maximum": 1}, "above 0 and at most 1"),
        (1.5, {"minimum": 0, "maximum": 1}, "between 0 and 1"),
        (0.0, {"above": 0}, "above 0"),
        (2.0, {"below": 2}, "below 2"),
        (-1.0, {"minimum": 0}, "at least 0"),
        (3.0, {"maximum": 2}, "at most 2"),
        (1.0, {"above": 0, "below": 1}, "above 0 and below 1"),
    ],
)
def test_a_number_out_of_bounds_is_told_all_of_them(value: float, bounds: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=f"decay={value} is not allowed: it must be {said}. HINT: use 0.9"):
        finite("Ema", "decay", value, "use 0.9", **bounds)


def test_what_is_within_is_a_float() -> None:
    assert finite("Ema", "decay", 0, "use 0.9", minimum=0, below=1) == 0.0
