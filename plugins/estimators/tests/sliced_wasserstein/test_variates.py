"""Control variates: their means are right, they reduce what they claim to, and third parties can add one."""

from __future__ import annotations

import math

import pytest
import torch

from thunderstone import ArgumentError, UnknownNameError, strategies, strategy
from thunderstone_estimators import CloudPair, ControlVariate, draw_directions, sliced_wasserstein_distance
from thunderstone_estimators.sliced_wasserstein import variates
from thunderstone_estimators.sliced_wasserstein.clouds import checked_clouds

NAMES = ["lower", "upper", "gaussian", "harmonic"]


def stretched(cloud, n, dimension, seed=0, batch=()):
    return cloud(*batch, n, dimension, seed=seed) * torch.linspace(0.3, 2, dimension, dtype=torch.float64)


def test_they_are_declared():
    assert set(NAMES) <= set(strategies("estimators.control_variate"))
    for name in NAMES:
        assert strategy("estimators.control_variate", name) is getattr(variates, name)


@pytest.mark.parametrize("dimension", [2, 3, 8])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_mean_is_the_mean(cloud, masses, dimension, weighted, name):
    """Over many directions, within five standard errors."""
    x, y = stretched(cloud, 20, dimension), stretched(cloud, 15, dimension, seed=1).flip(-1) + 0.5
    a, b = (masses(20), masses(15, seed=1)) if weighted else (None, None)
    generator = torch.Generator().manual_seed(0)
    # Few directions for what a variate makes of their number, many evaluations of it.
    size = 40
    count = 100
    differences = []
    for _ in range(count):
        theta = draw_directions("uniform", size, dimension, generator)
        values, means = getattr(variates, name)(theta, checked_clouds("test", x, y, a, b), generator)
        differences.append(values.mean(1) - means)
    difference = torch.stack(differences).squeeze(1)
    standard_error = difference.std(0) / math.sqrt(count)
    assert (difference.mean(0).abs() <= 5 * standard_error + 1e-12).all()


def test_bounds_are_bounds(cloud):
    x, y = stretched(cloud, 20, 4), stretched(cloud, 20, 4, seed=1).flip(-1) + 0.5
    theta = draw_directions("uniform", 50, 4)
    clouds = checked_clouds("test", x, y)
    _, log = sliced_wasserstein_distance(x, y, projections=theta.mT, log=True)
    below, above, between = (getattr(variates, name)(theta, clouds, None)[0] for name in ("lower", "upper", "gaussian"))
    exact = log["projected_emds"]
    assert (below <= exact + 1e-12).all()
    assert (exact <= above + 1e-12).all()
    assert (below <= between + 1e-12).all()
    assert (between <= exact + 1e-9).all()  # Gelbrich's bound


def test_projected_variances_agree_either_way(cloud, masses):
    """By covariance where there are many directions, by projection where there are few."""
    clouds = checked_clouds("test", cloud(20, 10), cloud(15, 10, seed=1), masses(20))
    theta = draw_directions("uniform", 30, 10)
    many = clouds.projected_variances(theta)
    few = [clouds.projected_variances(part) for part in theta.split(5)]
    for i in range(2):
        torch.testing.assert_close(many[i], torch.cat([part[i] for part in few], -1))


def squared_errors(x, y, choice, directions="uniform", num_projections=10, repetitions=100):
    generator = torch.Generator().manual_seed(0)
    arguments = {"num_projections": 5000, "directions": "qmc", "control_variate": "upper"}
    exact = sliced_wasserstein_distance(x, y, generator=generator, **arguments) ** 2
    estimates = torch.stack(
        [
            sliced_wasserstein_distance(
                x,
                y,
                control_variate=choice,
                directions=directions,
                num_projections=num_projections,
                generator=generator,
            )
            ** 2
            for _ in range(repetitions)
        ]
    )
    return (estimates - exact).square().mean().item()


@pytest.mark.parametrize(
    ("choice", "directions", "least"),
    [
        ("upper", "uniform", 1500),
        ("lower", "uniform", 8000),
        ("gaussian", "uniform", 8000),
        (["upper", "gaussian"], "uniform", 8000),
        (ControlVariate("upper", fit="loo"), "uniform", 2000),
        (ControlVariate("upper", fit="cross"), "uniform", 500),
        (None, "orthogonal", 4),
        (None, "qmc", 8),
    ],
)
def test_on_shifted_clouds_variance_falls_as_measured(cloud, choice, directions, least):
    x, y = stretched(cloud, 100, 3), stretched(cloud, 100, 3, seed=1) + 10
    assert squared_errors(x, y, None) / squared_errors(x, y, choice, directions) > least


def test_harmonics_beat_the_upper_bound_where_draws_suffice(cloud):
    x, y = stretched(cloud, 50, 3), stretched(cloud, 50, 3, seed=1).flip(-1)
    plain = squared_errors(x, y, None, num_projections=100)
    harmonic = squared_errors(x, y, "harmonic", num_projections=100)
    assert plain / harmonic > 50
    assert harmonic < squared_errors(x, y, "upper", num_projections=100)


def test_leave_one_out_is_unbiased(cloud):
    x, y = stretched(cloud, 15, 3), stretched(cloud, 15, 3, seed=1).flip(-1) + 0.3
    generator = torch.Generator().manual_seed(0)
    exact = sliced_wasserstein_distance(x, y, num_projections=50_000, directions="qmc", generator=generator) ** 2
    estimates = []
    for _ in range(1000):
        _, log = sliced_wasserstein_distance(
            x,
            y,
            num_projections=10,
            control_variate=ControlVariate("upper", fit="loo"),
            generator=generator,
            log=True,
        )
        estimates.append(log["control_variate"].estimate)
    estimates = torch.cat(estimates)
    assert abs(estimates.mean() - exact).item() < 4 * estimates.std().item() / math.sqrt(1000)


def test_one_projection_is_the_plain_estimate(cloud):
    x, y = cloud(10, 3), cloud(10, 3, seed=1) + 1
    generator = torch.Generator()
    plain = sliced_wasserstein_distance(x, y, num_projections=1, generator=generator.manual_seed(0))
    for name in NAMES:
        value, log = sliced_wasserstein_distance(
            x, y, num_projections=1, control_variate=name, generator=generator.manual_seed(0), log=True
        )
        assert value.item() == pytest.approx(plain.item(), rel=1e-12)
        assert not log["control_variate"].gamma.any()


def test_an_estimate_below_zero_is_zero(cloud):
    x, y = cloud(10, 3).requires_grad_(), cloud(10, 3, seed=1)
    value = sliced_wasserstein_distance(x, y, control_variate=ControlVariate("upper", fit=1e6))
    generator = torch.Generator().manual_seed(3)
    values = [
        sliced_wasserstein_distance(x, y, control_variate=ControlVariate("upper", fit=1e6), generator=generator)
        for _ in range(10)
    ]
    assert min(v.item() for v in values) == 0
    (value + sum(values)).backward()
    assert torch.isfinite(x.grad).all()


def test_means_that_differ_by_rounding_alone_are_equal(cloud):
    """Clouds centred in float32: without this the gradient of the lower bound is that of noise."""
    x, y = (cloud(200, 3, seed=s, dtype=torch.float32) for s in (0, 1))
    x, y = (x - x.mean(0)).requires_grad_(), y - y.mean(0)
    assert not torch.equal(x.mean(0), y.mean(0))
    value, log = sliced_wasserstein_distance(x, y, control_variate="lower", log=True)
    assert log["control_variate"].gamma.item() == 0
    value.backward()
    assert torch.isfinite(x.grad).all()
    apart = sliced_wasserstein_distance(x, y + 1e-3, control_variate="lower", log=True)[1]
    assert apart["control_variate"].gamma.item() != 0


@pytest.mark.parametrize("choice", [*NAMES, ["upper", "harmonic"], ControlVariate("upper", fit="loo")])
def test_the_gradient_is_that_of_the_value(cloud, choice):
    x, y = stretched(cloud, 5, 3).requires_grad_(), stretched(cloud, 6, 3, seed=1) + 1
    # The gaussian variate's own draws are held fixed; its mean's coefficients are detached, so it is left out of y.
    choice = ["upper"] if choice == "gaussian" else choice

    def value(x):
        return sliced_wasserstein_distance(x, y, control_variate=choice, generator=torch.Generator().manual_seed(0))

    assert torch.autograd.gradcheck(value, x)


def test_a_detached_gamma_gives_harmonics_nothing_to_do(cloud):
    x, y = cloud(10, 3).requires_grad_(), cloud(10, 3, seed=1)

    def gradient(choice):
        _, log = sliced_wasserstein_distance(
            x, y, control_variate=choice, generator=torch.Generator().manual_seed(0), log=True
        )
        power = log["projected_emds"].mean() if choice is None else log["control_variate"].estimate
        return torch.autograd.grad(power.sum(), x)[0]

    plain = gradient(None)
    torch.testing.assert_close(gradient(ControlVariate("harmonic", detach=True)), plain)
    assert (gradient("harmonic") - plain).abs().max() > 1e-4


def test_a_function_of_ones_own_can_be_given(cloud):
    x, y = cloud(10, 3), cloud(10, 3, seed=1) + 1
    seen = []

    def mine(directions, clouds, generator):
        seen.append(clouds)
        return directions[:, 0].square().unsqueeze(0), directions.new_tensor([1 / clouds.dimension])

    _, log = sliced_wasserstein_distance(x, y, control_variate=[mine, "upper"], log=True)
    assert isinstance(seen[0], CloudPair)
    assert log["control_variate"].gamma.shape == (1, 2)


def test_projections_of_ones_own_have_to_be_unit_vectors(cloud):
    x, y = cloud(10, 3), cloud(10, 3, seed=1)
    with pytest.raises(ArgumentError, match="unit vectors"):
        sliced_wasserstein_distance(x, y, projections=cloud(3, 20), control_variate="upper")


def test_unknown_names_get_the_nearest():
    with pytest.raises(UnknownNameError, match="'upper'"):
        sliced_wasserstein_distance(torch.zeros(3, 2), torch.ones(3, 2), control_variate="uper")


@pytest.mark.parametrize("choice", [3, [], [None], ControlVariate(())])
def test_what_is_no_control_variate_is_refused(choice):
    with pytest.raises(ArgumentError) as caught:
        sliced_wasserstein_distance(torch.zeros(3, 2), torch.ones(3, 2), control_variate=choice)
    assert caught.value.argument == "control_variate"
