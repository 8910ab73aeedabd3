"""Harmonics: orthonormal by exact moments, and spanning what even polynomials on the sphere span."""

from __future__ import annotations

import math

import pytest
import torch

from thunderstone_estimators import draw_directions
from thunderstone_estimators.sliced_wasserstein.harmonics import even_harmonics, fitting_size, number_of_harmonics


@pytest.mark.parametrize(("dimension", "degree"), [(2, 2), (2, 10), (3, 2), (3, 6), (3, 10), (6, 4), (12, 2)])
def test_there_are_as_many_as_linearly_independent_even_harmonics(dimension, degree):
    def of_degree(k):  # dimension of the space of harmonics of degree k
        lower = math.comb(dimension + k - 3, k - 2) if k >= 2 else 0
        return math.comb(dimension + k - 1, k) - lower

    expected = sum(of_degree(k) for k in range(2, degree + 1, 2))
    assert number_of_harmonics(dimension, dimension, degree) == expected
    assert even_harmonics(draw_directions("uniform", 2, dimension), degree).shape == (2, expected)


@pytest.mark.parametrize(("dimension", "degree"), [(2, 8), (3, 2), (3, 8)])
def test_they_are_orthonormal_under_a_quadrature_that_is_exact(dimension, degree):
    """In the plane equal angles, in space a Gauss-Legendre product rule, integrate these polynomials exactly."""
    if dimension == 2:
        angle = torch.arange(64, dtype=torch.float64) * math.pi / 32
        theta, weight = torch.stack([angle.cos(), angle.sin()], -1), torch.full((64,), 1 / 64, dtype=torch.float64)
    else:
        import numpy as np

        nodes, heights = np.polynomial.legendre.leggauss(20)
        z = torch.from_numpy(nodes).repeat_interleave(40)
        angle = (torch.arange(40, dtype=torch.float64) * math.pi / 20).repeat(20)
        radius = (1 - z.square()).sqrt()
        theta = torch.stack([radius * angle.cos(), radius * angle.sin(), z], -1)
        weight = torch.from_numpy(heights).repeat_interleave(40) / 80
    values = even_harmonics(theta, degree)
    assert (weight @ values).abs().max().item() < 1e-10
    gram = values.mT @ (weight.unsqueeze(-1) * values)
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), atol=1e-8, rtol=0)


def test_those_of_some_coordinates_have_mean_zero_and_unit_covariance():
    theta = draw_directions("uniform", 400_000, 9, torch.Generator().manual_seed(0))
    values = even_harmonics(theta[:, :3], 2, dimension=9)
    assert values.shape[-1] == 6
    assert values.mean(0).abs().max().item() < 0.01
    gram = values.mT @ values / len(values)
    assert (gram - torch.eye(6, dtype=torch.float64)).abs().max().item() < 0.04


def test_a_basis_never_takes_more_than_half_the_draws():
    assert fitting_size(10, 3) == (3, 2)
    assert fitting_size(100, 3) == (3, 8)
    assert fitting_size(100, 64) == (9, 2)
    assert fitting_size(1, 3) is None
    assert fitting_size(50, 1) is None
    for count in range(2, 200, 7):
        for dimension in (2, 3, 10, 100):
            coordinates, degree = fitting_size(count, dimension)
            assert number_of_harmonics(coordinates, dimension, degree) <= count // 2
