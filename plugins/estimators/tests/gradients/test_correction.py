"""The pure core: SVRG's control variate, its best coefficient, and the moments of gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thunderstone_estimators.gradients.correction import corrected_gradients, deviations
from thunderstone_estimators.gradients.full_gradient import examples_in
from thunderstone_estimators.gradients.moments import GradientMoments
from thunderstone_estimators.gradients.optimal_coefficient import OptimalCoefficient


def draws(seed: int, count: int, scale: float = 1.0) -> list[list[Tensor]]:
    """`count` gradients of two layers."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, 3), (4,))
    return [
        [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes] for _ in range(count)
    ]


def mean_of(gradients: list[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(layer).mean(0) for layer in zip(*gradients, strict=True)]


# -- the correction ----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), alpha=st.floats(0, 1), share=st.floats(0.1, 65536.0), count=st.integers(1, 5))
@settings(max_examples=40)
def test_the_correction_has_mean_zero_over_the_batches(seed: int, alpha: float, share: float, count: int) -> None:
    """Whatever the coefficient, and whatever all losses are scaled by."""
    now, then = draws(seed, count), draws(seed + 1, count)
    full = mean_of(then)
    scaled = [[share * layer for layer in gradient] for gradient in then]
    found = [
        corrected_gradients([share * layer for layer in g], deviations(old, full, share), alpha)
        for g, old in zip(now, scaled, strict=True)
    ]
    for corrected, plain in zip(mean_of(found), mean_of(now), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(corrected, share * plain, rtol=1e-9, atol=1e-11 * share)


@given(seed=st.integers(0, 10_000), alpha=st.floats(0, 1))
@settings(max_examples=20)
def test_one_batch_by_the_formula(seed: int, alpha: float) -> None:
    (g,), (g_then,), (full,) = draws(seed, 1), draws(seed + 1, 1), draws(seed + 2, 1)
    found = corrected_gradients(g, deviations(g_then, full), alpha)
    for one, a, b, c in zip(found, g, g_then, full, strict=True):
        assert one is not None
        torch.testing.assert_close(one, a - alpha * (b - c))


def test_at_the_snapshot_the_full_gradient_is_left() -> None:
    (g,), (full,) = draws(0, 1), draws(1, 1)
    for one, expected in zip(corrected_gradients(g, deviations(g, full), 1.0), full, strict=True):
        torch.testing.assert_close(one, expected)


def test_a_missing_gradient_counts_as_zero() -> None:
    one = torch.ones(2)
    assert deviations([None, None, one, one], [None, one, None, one], 2.0)[0] is None
    missed = deviations([None, one, 3 * one], [one, None, one], 2.0)
    assert [None if miss is None else miss.tolist() for miss in missed] == [[-2, -2], [1, 1], [1, 1]]
    found = corrected_gradients([None, None, one, one], [None, one, None, 3 * one], 0.5)
    assert [None if value is None else value.tolist() for value in found] == [None, [-0.5, -0.5], [1, 1], [-0.5, -0.5]]


def test_each_layer_may_have_a_coefficient_of_its_own() -> None:
    (g,), (miss,) = draws(0, 1), draws(1, 1)
    found = corrected_gradients(g, miss, [torch.tensor(0.0), torch.tensor(1.0)])
    assert torch.equal(found[0], g[0])  # type: ignore[arg-type]
    torch.testing.assert_close(found[1], g[1] - miss[1])
    assert found[1].dtype == torch.float64  # type: ignore[union-attr]


# -- the best coefficient ----------------------------------------------------------------------------------------------


def test_the_coefficient_is_that_of_least_variance() -> None:
    """g_i(w) = c g_i(w~) + noise: Cov / Var is c."""
    then = draws(0, 400)
    noise = draws(1, 400, scale=0.3)
    full = mean_of(then)
    best = OptimalCoefficient(1.0)
    average = torch.zeros(2, dtype=torch.float64)
    for old, rest in zip(then, noise, strict=True):
        now = [0.7 * old[0] + rest[0], -0.4 * old[1] + rest[1]]
        best.update(now, full, deviations(old, full))
        average += torch.stack([best._covariance, best._variance])[0] / best._variance / 400  # type: ignore[operator, arg-type]
    assert average[0].item() == pytest.approx(0.7, abs=0.15)
    assert average[1].item() == pytest.approx(-0.4, abs=0.15)
    # A negative coefficient would add the snapshot's noise to where it hurts least; it is left at zero.
    assert best.current(2, torch.device("cpu"))[1] == 0


def test_nothing_known_is_the_limit_and_more_than_the_limit_is_too() -> None:
    best = OptimalCoefficient(0.6)
    assert best.current(2, torch.device("cpu")).tolist() == pytest.approx([0.6, 0.6])
    (g,) = draws(0, 1)
    zero = [torch.zeros_like(layer) for layer in g]
    best.update([2 * layer for layer in g], zero, g)
    assert best.current(2, torch.device("cpu")).tolist() == pytest.approx([0.6, 0.6])
    best.reset()
    best.update([0.25 * g[0], None], zero, [g[0], None])
    assert best.current(2, torch.device("cpu")).tolist() == pytest.approx([0.25, 0.6])


def test_an_overflowed_batch_says_nothing() -> None:
    best = OptimalCoefficient(1.0)
    (g,) = draws(0, 1)
    zero = [torch.zeros_like(layer) for layer in g]
    best.update([0.5 * layer for layer in g], zero, g)
    best.update([torch.full_like(layer, torch.inf) for layer in g], zero, g)
    assert best.current(2, torch.device("cpu")).tolist() == pytest.approx([0.5, 0.5])


def test_the_coefficient_goes_on_where_it_was() -> None:
    best, again = OptimalCoefficient(1.0), OptimalCoefficient(1.0)
    again.load_state_dict(best.state_dict(), torch.device("cpu"))
    assert again.current(1, torch.device("cpu")).tolist() == [1.0]
    (g,), (other,) = draws(0, 1), draws(1, 1)
    best.update(other, g, g)
    again.load_state_dict(best.state_dict(), torch.device("cpu"))
    assert torch.equal(again.current(2, torch.device("cpu")), best.current(2, torch.device("cpu")))


# -- moments -----------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), count=st.integers(2, 12), shift=st.floats(-1e3, 1e3))
@settings(max_examples=40)
def test_variance_is_the_sum_of_the_coordinates_variances(seed: int, count: int, shift: float) -> None:
    gradients = [[layer + shift for layer in gradient] for gradient in draws(seed, count)]
    moments = GradientMoments()
    for gradient in gradients:
        moments.add(gradient)
    stacked = [torch.stack(layer) for layer in zip(*gradients, strict=True)]
    torch.testing.assert_close(moments.variance(), torch.stack([s.var(0).sum() for s in stacked]), rtol=1e-8, atol=1e-9)
    expected = torch.stack([s.mean(0).square().sum() - s.var(0).sum() / count for s in stacked])
    torch.testing.assert_close(moments.signal(), expected, rtol=1e-8, atol=1e-6)


def test_the_signal_is_unbiased() -> None:
    """Mean 0.5 in each of ten coordinates: 2.5, however few the gradients."""
    found = torch.zeros(2, dtype=torch.float64)
    for repetition in range(2000):
        moments = GradientMoments()
        for gradient in draws(10 * repetition, 2):
            moments.add([layer + 0.5 for layer in gradient])
        found += moments.signal() / 2000
    assert found.tolist() == pytest.approx([6 * 0.25, 4 * 0.25], abs=0.2)


def test_missing_gradients_are_zeros() -> None:
    one = torch.ones(3, dtype=torch.float16)
    moments = GradientMoments()
    for gradients in ([None, None, one], [None, one, None], [None, one, 2 * one]):
        moments.add(gradients)
    values = torch.tensor([[0.0, 0, 0], [0, 1, 1], [1, 0, 2]], dtype=torch.float64)
    torch.testing.assert_close(moments.variance(), 3 * values.var(1))
    torch.testing.assert_close(moments.signal(), 3 * values.mean(1).square() - values.var(1))


# -- batches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(5, 2), 5),
        ([torch.zeros(4, 2), torch.zeros(7)], 4),
        ({"scale": torch.tensor(1.0), "x": torch.zeros(3)}, 3),
        ((["a", "b"], {"x": torch.zeros(6, 1)}), 6),
        (torch.tensor(1.0), 1),
        ("text", 1),
        ([], 1),
    ],
)
def test_examples_in_a_batch(batch: object, size: int) -> None:
    assert examples_in(batch) == size
