"""Mean, spread, interval and cost, against what can be computed by hand."""

from __future__ import annotations

import itertools
import statistics as python
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thunderstone.comparison.results import Result
from thunderstone.comparison.statistics import best, interval, summarise

values = st.floats(-1e3, 1e3, allow_nan=False)


def result(setting, seed, value, **facts):
    return Result(setting, seed, "finished", "runs/x", 0, metrics={"m": value}, **facts)


def results(plain, other):
    pairs = [*(("plain", seed, value) for seed, value in enumerate(plain))]
    return [result(*pair) for pair in [*pairs, *(("other", seed, value) for seed, value in enumerate(other))]]


def test_two_differences_have_themselves_as_the_interval():
    # Half of the resamples are of one value alone, a quarter each: both are within 95%.
    assert interval([0.1, 0.3]) == (pytest.approx(0.1), pytest.approx(0.3))


def test_the_interval_is_that_of_all_resamples_there_are():
    differences = [0.1, -0.4, 0.7, 0.2, 0.25, -0.1]
    means = [np.mean(drawn) for drawn in itertools.product(differences, repeat=6)]
    low, high = np.quantile(means, [0.025, 0.975])
    assert interval(differences) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_one_difference_has_no_interval():
    assert interval([0.1]) == (None, None)


@pytest.mark.parametrize("count", [2, 5])
def test_equal_differences_have_an_interval_without_width(count):
    assert interval([0.5] * count) == (0.5, 0.5)


@given(st.lists(st.tuples(values, values, values), min_size=2, max_size=5))
def test_what_a_seed_does_to_both_settings_does_not_count(drawn):
    plain, other, shift = zip(*drawn, strict=True)
    _, alone = summarise(results(plain, other), ["plain", "other"], "m")
    moved = results(np.add(plain, shift).tolist(), np.add(other, shift).tolist())
    _, shifted = summarise(moved, ["plain", "other"], "m")
    assert shifted.difference == pytest.approx(alone.difference, abs=1e-9)
    assert (shifted.low, shifted.high) == (pytest.approx(alone.low, abs=1e-9), pytest.approx(alone.high, abs=1e-9))
    assert alone.low - 1e-9 <= alone.difference <= alone.high + 1e-9


def test_mean_and_spread_are_the_usual_ones():
    plain, other = summarise(results([1.0, 2.0, 4.0], [1.0, 3.0, 6.0]), ["plain", "other"], "m")
    assert (plain.mean, plain.spread, plain.seeds) == (python.fmean([1, 2, 4]), python.stdev([1, 2, 4]), 3)
    assert (plain.difference, plain.low) == (None, None)
    assert other.difference == pytest.approx(1.0)


def test_only_seeds_that_both_have_are_paired():
    runs = results([1.0, 2.0, 3.0], [5.0, 6.0, 7.0])
    runs[1] = replace(runs[1], status="failed", metrics={})
    runs[5] = replace(runs[5], metrics={"m": float("inf")})
    plain, other = summarise(runs, ["plain", "other"], "m")
    assert (plain.seeds, plain.failed, plain.mean) == (2, 1, 2.0)
    assert (other.seeds, other.not_finite, other.mean) == (2, 1, 5.5)
    assert (other.difference, other.low, other.high) == (4.0, None, None), "seed 0 alone"


def test_cost_is_the_median_ratio_to_the_same_seed():
    runs = [result("plain", seed, 0.0, fit_seconds=seconds, passes=10) for seed, seconds in enumerate([1.0, 2.0, 4.0])]
    runs += [result("other", seed, 0.0, fit_seconds=seconds, passes=20) for seed, seconds in enumerate([3.0, 3.0, 8.0])]
    plain, other = summarise(runs, ["plain", "other"], "m")
    assert (plain.time, plain.passes) == (1.0, 1.0)
    assert (other.time, other.passes) == (2.0, 2.0)


def test_a_setting_of_which_nothing_finished_has_no_numbers():
    failed = [Result("other", seed, "failed", "runs/x", 1) for seed in range(2)]
    _, other = summarise([*results([1.0, 2.0], []), *failed], ["plain", "other"], "m")
    assert (other.seeds, other.mean, other.spread, other.difference, other.time, other.failed) == (0, *[None] * 4, 2)


def test_the_best_is_the_largest_or_the_smallest():
    summaries = summarise(results([1.0, 2.0], [3.0, 4.0]), ["plain", "other"], "m")
    assert (best(summaries, "max"), best(summaries, "min")) == ("other", "plain")
    assert best(summarise([], ["plain", "other"], "m"), "max") is None
