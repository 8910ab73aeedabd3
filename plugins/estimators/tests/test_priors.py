"""Priors have the moments and the support they are named after, and come from the generator alone."""

from __future__ import annotations

import math

import pytest
import torch

from thunderstone import strategy

# Standard deviation and fourth moment over squared variance of one coordinate in three dimensions.
MOMENTS = {
    "normal": (1.0, 3.0),
    "uniform": (1 / math.sqrt(3), 9 / 5),
    "laplace": (math.sqrt(2), 6.0),
    # A coordinate of a point on the sphere in space is uniform.
    "sphere": (1 / math.sqrt(3), 9 / 5),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_moments(name: str) -> None:
    points = strategy("estimators.prior", name)(200_000, 3, torch.Generator().manual_seed(0))
    deviation, kurtosis = MOMENTS[name]
    assert points.shape == (200_000, 3)
    assert points.dtype == torch.float64
    assert points.mean(0).abs().max() < 0.01 * deviation
    torch.testing.assert_close(points.std(0) / deviation, torch.ones(3, dtype=torch.float64), rtol=0, atol=0.01)
    fourth = (points**4).mean(0) / points.var(0) ** 2
    torch.testing.assert_close(fourth / kurtosis, torch.ones(3, dtype=torch.float64), rtol=0, atol=0.05)
    assert torch.corrcoef(points.mT).triu(1).abs().max() < 0.01


@pytest.mark.parametrize("name", MOMENTS)
def test_draws_come_from_the_generator(name: str) -> None:
    draw = strategy("estimators.prior", name)
    before = torch.get_rng_state()
    first = draw(5, 2, torch.Generator().manual_seed(3))
    assert torch.equal(first, draw(5, 2, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, draw(5, 2, torch.Generator().manual_seed(4)))
    assert torch.equal(before, torch.get_rng_state())


def test_supports() -> None:
    generator = torch.Generator().manual_seed(0)
    assert strategy("estimators.prior", "uniform")(1000, 4, generator).abs().max() <= 1
    torch.testing.assert_close(
        strategy("estimators.prior", "sphere")(50, 4, generator).norm(dim=-1), torch.ones(50, dtype=torch.float64)
    )
