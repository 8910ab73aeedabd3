"""The loss module: its arguments reach the function, and minimising it moves one cloud onto the other."""

from __future__ import annotations

import pytest
import torch

from thunderstone import ArgumentError, UnknownNameError
from thunderstone_estimators import SlicedWassersteinLoss, sliced_wasserstein_distance


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("power", [False, True])
def test_it_is_the_function(cloud, masses, reduction, power):
    x, y, a, b = cloud(3, 10, 4), cloud(3, 8, 4, seed=1), masses(3, 10), masses(3, 8)
    settings = {"num_projections": 13, "p": 1.5, "control_variate": "upper", "directions": "orthogonal", "chunk": 4}
    expected = sliced_wasserstein_distance(x, y, a, b, generator=torch.Generator().manual_seed(5), **settings)
    expected = expected**1.5 if power else expected
    expected = {"mean": expected.mean(), "sum": expected.sum(), "none": expected}[reduction]
    loss = SlicedWassersteinLoss(**settings, reduction=reduction, power=power, seed=5)
    torch.testing.assert_close(loss(x, y, a, b), expected)


def test_without_a_seed_every_call_draws_anew(cloud):
    x, y = cloud(10, 4), cloud(10, 4, seed=1)
    fresh, fixed = SlicedWassersteinLoss(5), SlicedWassersteinLoss(5, seed=0)
    assert fresh(x, y) != fresh(x, y)
    assert fixed(x, y) == fixed(x, y)


def test_minimising_it_moves_the_cloud(cloud):
    x, y = cloud(30, 2).requires_grad_(), cloud(30, 2, seed=1) * 0.5 + 4
    loss = SlicedWassersteinLoss(30, power=True, control_variate="upper")
    optimizer = torch.optim.SGD([x], lr=15)
    for _ in range(60):
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()
    assert sliced_wasserstein_distance(x, y, num_projections=500).item() < 0.05


@pytest.mark.parametrize("change", [{"num_projections": 0}, {"p": 0}, {"reduction": "avg"}, {"power": 1}, {"seed": -1}])
def test_bad_arguments_are_named(change):
    with pytest.raises(ArgumentError, match="SlicedWassersteinLoss") as caught:
        SlicedWassersteinLoss(**change)
    assert caught.value.argument in change


def test_unknown_names_are_refused_when_it_is_built():
    with pytest.raises(UnknownNameError, match="'lower'"):
        SlicedWassersteinLoss(control_variate="lowr")


def test_it_shows_its_arguments():
    assert "num_projections=7, p=2, control_variate='upper'" in repr(SlicedWassersteinLoss(7, control_variate="upper"))
