"""Densities by layer, against the equations and by brute force."""

from __future__ import annotations

import itertools
import math
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderstone import ArgumentError
from thunderstone_pruning.densities import densities_of, erk, layer_counts, uniform
from thunderstone_pruning.schedules import cubic, geometric, linear, one_shot

SHAPES = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.one_of(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.tuples(*[st.integers(1, 8)] * 4)),
    min_size=1,
    max_size=6,
)
DENSITY = st.floats(0.01, 1.0)


def erk_by_bisection(shapes: dict[str, tuple[int, ...]], density: float) -> dict[str, float]:
    """Reference: the epsilon at which sum min(1, eps * raw) * size meets the total, sought by bisection."""
    raw = {name: math.fsum(shape) / prod(shape) for name, shape in shapes.items()}
    goal = density * sum(map(prod, shapes.values()))
    low, high = 0.0, 1 / min(raw.values()) + 1
    for _ in range(200):
        middle = (low + high) / 2
        met = math.fsum(min(1.0, middle * raw[name]) * prod(shapes[name]) for name in shapes)
        low, high = (middle, high) if met < goal else (low, middle)
    return {name: min(1.0, high * raw[name]) for name in shapes}


@given(SHAPES, DENSITY)
@settings(max_examples=100, deadline=None)
def test_erk_is_the_solution_of_its_equation(shapes, density) -> None:
    found, expected = erk(shapes, density), erk_by_bisection(shapes, density)
    assert found == pytest.approx(expected, abs=1e-9)
    assert all(0 < value <= 1 for value in found.values())
    total = sum(map(prod, shapes.values()))
    assert sum(found[name] * prod(shapes[name]) for name in shapes) == pytest.approx(density * total)


def test_erk_of_lenet() -> None:
    """300-100 at 10%: the last layer would be denser than 1 and is dense."""
    shapes = {"one": (300, 784), "two": (100, 300), "three": (10, 100)}
    found = erk(shapes, 0.1)
    epsilon = (0.1 * 266_200 - 1000) / (1084 + 400)
    assert found == pytest.approx({"one": epsilon * 1084 / 235_200, "two": epsilon * 400 / 30_000, "three": 1.0})


@given(SHAPES, DENSITY, st.sampled_from([uniform, erk]))
@settings(max_examples=100, deadline=None)
def test_counts_add_up_exactly_and_are_the_nearest(shapes, density, strategy) -> None:
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    total = max(round(density * sum(sizes.values())), len(sizes))
    shares = strategy(shapes, density)
    if abs(total - sum(shares[name] * sizes[name] for name in sizes)) > 0.5:
        # Too few for one a layer.
        return
    counts = layer_counts(shares, sizes, total, empty="keep_one")
    assert sum(counts.values()) == total
    assert all(1 <= counts[name] <= sizes[name] for name in sizes)
    given_one = [name for name in sizes if shares[name] * sizes[name] < 1]
    if not given_one:
        assert all(abs(counts[name] - shares[name] * sizes[name]) < 1 + 1e-6 for name in sizes)


def test_larger_remainders_are_rounded_up_first() -> None:
    assert layer_counts({"a": 0.5, "b": 0.26, "c": 0.4}, {"a": 5, "b": 10, "c": 10}, 9) == {"a": 2, "b": 3, "c": 4}
    assert layer_counts({"b": 0.5, "a": 0.5}, {"a": 5, "b": 5}, 5) == {"a": 3, "b": 2}
    assert layer_counts({"a": 0.3}, {"a": 10}) == {"a": 3}


def test_an_empty_layer() -> None:
    shares, sizes = {"a": 0.01, "b": 0.5}, {"a": 10, "b": 20}
    with pytest.raises(ArgumentError, match="Tester: layer='a' is not allowed: it would have no weight left"):
        layer_counts(shares, sizes, who="Tester")
    assert layer_counts(shares, sizes, empty="keep_one") == {"a": 1, "b": 9}
    with pytest.raises(ArgumentError, match="keep=1 is not allowed: there are 2 layers, and empty='keep_one'"):
        layer_counts({"a": 0.01, "b": 0.05}, sizes, empty="keep_one")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"a": 1.5}, {"a": 3}), r"densities\['a'\]=1.5"),
        (({"a": math.nan}, {"a": 3}), r"densities\['a'\]=nan"),
        (({"a": 0.5}, {"b": 3}), "different layers"),
        (({"a": 0.5}, {"a": 3}, 4), "total=4 is not allowed: there are not as many weights"),
        (({"a": 0.1}, {"a": 100}, 50), "total=50 is not allowed: the densities add up to 10.0 weights"),
    ],
)
def test_counts_that_cannot_be(arguments, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        layer_counts(*arguments)


def test_densities_of_masks() -> None:
    masks = {"a": torch.tensor([True, False, True, True]), "b": torch.tensor([[False, True]])}
    assert densities_of(masks) == {"a": 0.75, "b": 0.5}


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_schedules_fall_from_the_initial_to_the_final_density(one, two, times) -> None:
    initial, final = max(one, two), min(one, two)
    for schedule in (cubic, linear, geometric):
        assert schedule(0.0, initial, final) == pytest.approx(initial)
        assert schedule(1.0, initial, final) == pytest.approx(final)
        values = [schedule(time, initial, final) for time in sorted(times)]
        assert all(before >= after - 1e-12 for before, after in itertools.pairwise(values))
    assert one_shot(0.0, initial, final) == final


def test_the_cubic_schedule_is_that_of_the_paper() -> None:
    """Zhu & Gupta, eq. 1, in sparsities: s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3."""
    s_i, s_f = 0.1, 0.9
    for t in (0.0, 0.25, 0.5, 1.0):
        assert 1 - cubic(t, 1 - s_i, 1 - s_f) == pytest.approx(s_f + (s_i - s_f) * (1 - t) ** 3)


def test_the_geometric_schedule_takes_the_same_share_every_time() -> None:
    values = [geometric(step / 4, 1.0, 0.8**4) for step in range(5)]
    assert values == pytest.approx([1.0, 0.8, 0.64, 0.512, 0.4096])
