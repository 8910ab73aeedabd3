"""How long curves become short enough to draw."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from thunderstone.report.charts import _MOST_POINTS, thin

numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(numbers, max_size=50), st.integers(1, 100))
def test_a_long_curve_keeps_its_ends_and_its_extremes(values, repeats):
    curve = [(float(step), value) for step, value in enumerate(values * repeats)]
    kept = thin(curve)
    assert len(kept) <= _MOST_POINTS
    steps = [step for step, _ in kept]
    assert steps == sorted(set(steps))
    if curve:
        assert (steps[0], steps[-1]) == (0, len(curve) - 1)
    finite = [value for _, value in curve if math.isfinite(value)]
    if finite:
        left = [value for _, value in kept if math.isfinite(value)]
        assert (min(left), max(left)) == (min(finite), max(finite))


def test_a_short_curve_stays_as_it_is():
    curve = [(float(step), math.sin(step)) for step in range(_MOST_POINTS)]
    assert thin(curve) == curve
