"""Directions: unit vectors, each uniform, spread as promised, and the same for a seed."""

from __future__ import annotations

import pytest
import torch

from thunderstone import ArgumentError
from thunderstone_estimators import draw_directions

KINDS = ["uniform", "orthogonal", "qmc"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("count", [1, 9, 64])
def test_they_are_unit_vectors(kind, dimension, count):
    theta = draw_directions(kind, count, dimension)
    assert theta.shape == (count, dimension)
    assert theta.dtype == torch.float64
    torch.testing.assert_close(theta.norm(dim=-1), torch.ones(count, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [2, 3, 5])
def test_every_single_direction_is_uniform(kind, dimension):
    """Second and fourth moments of the first and of the last direction over many draws are those of the sphere."""
    generator = torch.Generator().manual_seed(4)
    draws = torch.stack([draw_directions(kind, 4, dimension, generator) for _ in range(2000)])
    for theta in (draws[:, 0], draws[:, -1]):
        second = theta.mT @ theta / len(theta)
        expected = torch.eye(dimension, dtype=torch.float64) / dimension
        torch.testing.assert_close(second, expected, atol=0.03, rtol=0)
        fourth = theta[:, 0].pow(4).mean().item()
        assert fourth == pytest.approx(3 / (dimension * (dimension + 2)), rel=0.15)
        assert theta.mean(0).abs().max().item() < 0.05


def test_orthogonal_blocks_are_orthonormal():
    theta = draw_directions("orthogonal", 11, 4)
    for block in theta.split(4):
        torch.testing.assert_close(block @ block.mT, torch.eye(len(block), dtype=torch.float64))


@pytest.mark.parametrize("dimension", [2, 3, 6])
def test_qmc_integrates_a_quadratic_far_better_than_chance(dimension):
    generator = torch.Generator().manual_seed(0)

    def spread(kind):
        estimates = [draw_directions(kind, 64, dimension, generator)[:, 0].square().mean() for _ in range(200)]
        return torch.stack(estimates).var().item()

    assert spread("qmc") < spread("uniform") / 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [1, 2, 3, 8])
def test_a_seed_gives_the_same_directions(kind, dimension):
    first, second, other = (
        draw_directions(kind, 20, dimension, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        ("kind", ("sobol", 3, 3)),
        ("num_projections", ("uniform", 0, 3)),
        ("dimension", ("uniform", 3, 0)),
        ("kind", ("qmc", 3, 30_000)),
    ],
)
def test_bad_input_is_named(argument, arguments):
    with pytest.raises(ArgumentError) as caught:
        draw_directions(*arguments)
    assert caught.value.argument == argument
