"""The general layer: exact cases, an independent reference, bias, and everything it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thunderstone import ArgumentError
from thunderstone_estimators import control_variate


def draws(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights_of(*shape, seed=1):
    raw = torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    return raw / raw.sum(-1, keepdim=True)


def regression(f, c, w, ridge=0.0):
    """Slopes of weighted least squares with an intercept, by NumPy."""
    f, c, w = (np.asarray(tensor) for tensor in (f, c, w))
    root = np.sqrt(w)[:, None]
    design = np.concatenate([np.ones((len(f), 1)), c], axis=1)
    return np.linalg.lstsq(root * design, root[:, 0] * f, rcond=None)[0][1:]


# -- exact cases -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["ols", "cross", "loo", 1.0])
def test_a_variate_equal_to_the_values_up_to_a_constant_removes_all_variance(fit):
    """The point of centring both sides: with the variate left uncentred gamma would not be 1."""
    c = draws(10)
    result = control_variate(c + 1000.0, c, 0.0, fit=fit)
    assert result.gamma.item() == pytest.approx(1.0, abs=1e-9)
    assert result.estimate.item() == pytest.approx(1000.0, abs=1e-9)
    assert result.correlation.item() == pytest.approx(1.0)
    assert result.gain.item() > 1e15  # infinite where rounding leaves nothing


def test_gamma_of_a_linear_relation_is_its_slope():
    c = draws(8)
    result = control_variate(3 - 2 * c, c, 0.25)
    assert result.gamma.item() == pytest.approx(-2, abs=1e-8)
    assert result.estimate.item() == pytest.approx(3 - 2 * 0.25, abs=1e-8)
    assert result.correlation.item() == pytest.approx(-1)


def test_a_number_is_gamma_itself():
    f, c = draws(5), draws(5, seed=2)
    result = control_variate(f, c, 0.3, fit=0.5)
    assert result.estimate.item() == pytest.approx((f - 0.5 * (c - 0.3)).mean().item(), abs=1e-15)
    assert result.gamma.item() == 0.5
    assert result.variance_before.item() == pytest.approx(f.var().item() / 5)
    assert result.variance_after.item() == pytest.approx((f - 0.5 * c).var().item() / 5)
    assert result.gain.item() == pytest.approx((f.var() / (f - 0.5 * c).var()).item())


def test_a_tensor_is_one_gamma_a_variate():
    f, c, gamma = draws(2, 5), draws(2, 5, 3), draws(2, 3, seed=5)
    result = control_variate(f, c, torch.zeros(3), fit=gamma)
    assert torch.equal(result.gamma, gamma.double())
    torch.testing.assert_close(result.estimate, (f - (gamma[:, None] * c).sum(-1)).mean(-1))
    one = control_variate(f, c[..., 0], 0.0, fit=gamma[:, 0])
    torch.testing.assert_close(one.estimate, (f - gamma[:, :1] * c[..., 0]).mean(-1))


@pytest.mark.parametrize("number", [1, 2])
def test_with_too_few_draws_for_a_fit_the_plain_mean_remains(number):
    f = torch.tensor([3.0, 5.0][:number])
    result = control_variate(f, torch.tensor([1.0, 7.0][:number]), 2.0)
    assert result.gamma.item() == 0
    assert result.estimate.item() == f.mean().item()
    assert result.gain.item() == 1
    assert all(torch.isfinite(value).all() for value in vars(result).values())


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("fit", ["ols", "cross", "loo"])
def test_a_variate_without_variance_is_left_out(constant, fit):
    f = draws(12)
    alone = control_variate(f, torch.full((12,), constant, dtype=torch.float64), 0.0, fit=fit)
    assert alone.gamma.item() == 0
    assert alone.estimate.item() == pytest.approx(f.mean().item())
    c = draws(12, seed=3)
    both = control_variate(f, torch.stack([c, torch.full_like(c, constant)], -1), torch.zeros(2), fit=fit)
    assert both.gamma[1].item() == 0
    assert both.estimate.item() == pytest.approx(control_variate(f, c, 0.0, fit=fit).estimate.item())


def test_values_without_variance_stay_what_they_are():
    result = control_variate(torch.full((6,), 2.5), draws(6), 0.0)
    assert result.estimate.item() == pytest.approx(2.5, abs=1e-14)
    assert result.correlation.item() == 0
    assert result.gain.item() == 1


# -- against least squares done elsewhere ------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_ols_is_least_squares_with_an_intercept(weighted):
    f, c, mu = draws(20), draws(20, 3, seed=2) * torch.tensor([1.0, 1e5, 1e-5]), draws(3, seed=3)
    w = weights_of(20) if weighted else torch.full((20,), 0.05, dtype=torch.float64)
    result = control_variate(f, c, mu, weights=w if weighted else None)
    gamma = regression(f, c, w)
    np.testing.assert_allclose(result.gamma, gamma, rtol=1e-8)
    expected = np.sum(w.numpy() * (f.numpy() - (c - mu).numpy() @ gamma))
    assert result.estimate.item() == pytest.approx(expected, rel=1e-8)
    predicted = c.numpy() @ gamma
    observed = np.cov(predicted, f.numpy(), aweights=w.numpy(), ddof=0)
    correlation = observed[0, 1] / math.sqrt(observed[0, 0] * observed[1, 1])
    assert result.correlation.item() == pytest.approx(correlation, rel=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
def test_loo_equals_n_fits(weighted):
    f, c, mu = draws(11), draws(11, 2, seed=2), draws(2, seed=3)
    w = weights_of(11) if weighted else torch.full((11,), 1 / 11, dtype=torch.float64)
    expected, gammas = 0.0, []
    for i in range(11):
        others = [j for j in range(11) if j != i]
        gammas.append(regression(f[others], c[others], w[others]))
        expected += w[i].item() * (f[i].item() - float((c[i] - mu).numpy() @ gammas[-1]))
    result = control_variate(f, c, mu, weights=w if weighted else None, fit="loo", ridge=0.0)
    assert result.estimate.item() == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(result.gamma, np.average(gammas, axis=0, weights=w), rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_corrects_each_half_with_the_other(weighted):
    f, c, mu = draws(9), draws(9, seed=2), 0.2
    w = weights_of(9) if weighted else torch.full((9,), 1 / 9, dtype=torch.float64)
    expected = 0.0
    for own, other in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        gamma = regression(f[other], c[other, None], w[other])[0]
        expected += (w[own] * (f[own] - gamma * (c[own] - mu))).sum().item()
    result = control_variate(f, c, mu, weights=w if weighted else None, fit="cross")
    assert result.estimate.item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("fit", ["ols", "cross", "loo", 0.7])
def test_a_batch_is_its_members(fit):
    f, c, mu, w = draws(2, 3, 12), draws(2, 3, 12, 2, seed=2), draws(2, 3, 2, seed=3), weights_of(2, 3, 12)
    batch = control_variate(f, c, mu, weights=w, fit=fit)
    assert batch.gamma.shape == (2, 3, 2)
    for i in range(2):
        for j in range(3):
            one = control_variate(f[i, j], c[i, j], mu[i, j], weights=w[i, j], fit=fit)
            for name, value in vars(one).items():
                torch.testing.assert_close(getattr(batch, name)[i, j], value, rtol=1e-9, atol=1e-12)


def test_leading_dimensions_broadcast():
    f, c = draws(4, 10), draws(10, 2, seed=2)
    shared = control_variate(f, c[None], torch.zeros(2))
    torch.testing.assert_close(shared.estimate[3], control_variate(f[3], c, torch.zeros(2)).estimate)
    assert shared.estimate.shape == (4,)


def test_variates_that_are_sums_of_one_another_are_fitted_together():
    f, c = draws(30), draws(30, seed=2)
    doubled = control_variate(f, torch.stack([c, c, 3 * c], -1), torch.zeros(3))
    single = control_variate(f, c, 0.0)
    assert doubled.estimate.item() == pytest.approx(single.estimate.item(), rel=1e-8)
    # Equal copies share the coefficient, none is left to chance.
    assert doubled.gamma[0].item() == pytest.approx(doubled.gamma[1].item(), rel=1e-8)


def test_moments_are_taken_in_float64():
    """A spread of 1 on an offset of 1e6 is 1/16 in float32's last place: sums in float32 would lose it."""
    c = (draws(1000) + 1e6).float()
    result = control_variate(c * 0.5, c, 1e6)
    assert result.gamma.item() == pytest.approx(0.5, rel=1e-5)
    assert result.estimate.item() == pytest.approx(0.5e6, abs=1e-3)
    assert result.estimate.dtype == torch.float64


# -- statistics --------------------------------------------------------------------------------------------------------


def skewed(repetitions, n, seed=0):
    """f = c + c^2 with c standard normal: E f = 1, and a fit on the same draws is biased by the square."""
    c = draws(repetitions, n, seed=seed)
    return c + c.square(), c


@pytest.mark.parametrize("fit", ["cross", "loo"])
def test_fits_on_other_draws_are_unbiased_where_ols_is_not(fit):
    f, c = skewed(40_000, 10)
    standard_error = lambda x: x.std().item() / math.sqrt(len(x))  # noqa: E731
    same = control_variate(f, c, 0.0).estimate
    other = control_variate(f, c, 0.0, fit=fit).estimate
    assert abs(same.mean().item() - 1) > 10 * standard_error(same)
    assert abs(other.mean().item() - 1) < 4 * standard_error(other)


def test_the_reported_variances_are_those_of_repetitions():
    c = draws(20_000, 12)
    f = 2 * c + draws(20_000, 12, seed=9)
    result = control_variate(f, c, 0.0)
    assert result.variance_before.mean().item() == pytest.approx(f.mean(-1).var().item(), rel=0.05)
    # With a fitted intercept and slope the estimate varies by (n - 2) / (n - 3) more than its residuals say.
    assert result.variance_after.mean().item() == pytest.approx(result.estimate.var().item(), rel=0.15)
    assert result.estimate.var().item() < f.mean(-1).var().item() / 3


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["ols", "cross", "loo"])
def test_the_gradient_of_the_whole_estimate_is_exact(fit):
    f, c = draws(12).requires_grad_(), draws(12, 2, seed=2).requires_grad_()
    w = weights_of(12)

    def estimate(f, c):
        return control_variate(f, c, torch.zeros(2), weights=w, fit=fit, ridge=1e-3).estimate

    assert torch.autograd.gradcheck(estimate, (f, c))


def test_detached_gamma_is_a_constant():
    f, c = draws(12).requires_grad_(), draws(12, seed=2).requires_grad_()
    result = control_variate(f, c, 0.0, detach=True)
    grad_f, grad_c = torch.autograd.grad(result.estimate, (f, c))
    torch.testing.assert_close(grad_f, torch.full_like(f, 1 / 12))
    torch.testing.assert_close(grad_c, torch.full_like(c, -result.gamma.item() / 12))
    assert not result.gamma.requires_grad


# -- refusals ----------------------------------------------------------------------------------------------------------

GOOD = torch.linspace(0, 1, 8)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("values", {"values": torch.arange(8)}),
        ("values", {"values": torch.zeros(0)}),
        ("values", {"values": GOOD.clone().index_fill(0, torch.tensor([2]), math.nan)}),
        ("values", {"values": [1.0, 2.0]}),
        ("variates", {"variates": torch.zeros(7)}),
        ("variates", {"variates": torch.zeros(8, 0)}),
        ("variates", {"variates": GOOD / 0}),
        ("variates", {"variates": torch.randn(8, 7), "means": torch.zeros(7)}),
        ("means", {"values": torch.ones(2, 8), "variates": torch.ones(2, 8), "means": torch.zeros(3)}),
        ("means", {"variates": torch.randn(8, 2), "means": torch.zeros(3)}),
        ("means", {"means": math.inf}),
        ("weights", {"weights": torch.full((8,), 0.2)}),
        ("weights", {"weights": torch.tensor([1.5, -0.5, 0, 0, 0, 0, 0, 0])}),
        ("weights", {"weights": torch.ones(3) / 3}),
        ("weights", {"weights": torch.tensor([math.nan] * 8)}),
        ("weights", {"weights": torch.ones(8, dtype=torch.int64)}),
        ("fit", {"fit": "lasso"}),
        ("fit", {"fit": math.nan}),
        ("fit", {"fit": torch.zeros(3)}),
        ("fit", {"fit": torch.tensor(math.nan)}),
        ("ridge", {"ridge": -1.0}),
        ("detach", {"detach": "no"}),
    ],
)
def test_bad_input_is_named(argument, change):
    arguments = {"values": GOOD, "variates": GOOD.square(), "means": 1 / 3, **change}
    with pytest.raises(ArgumentError, match="HINT") as caught:
        control_variate(**arguments)
    assert caught.value.argument == argument


@pytest.mark.parametrize(("fit", "needed"), [("ols", 5), ("loo", 6), ("cross", 10)])
def test_the_least_number_of_draws_is_what_the_message_says(fit, needed):
    f, c = draws(needed), draws(needed, 3, seed=2)
    assert torch.isfinite(control_variate(f, c, torch.zeros(3), fit=fit).estimate)
    with pytest.raises(ArgumentError, match=f"at least {needed} draws for 3 variates"):
        control_variate(f[:-1], c[:-1], torch.zeros(3), fit=fit)
