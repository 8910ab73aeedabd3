"""Even spherical harmonics in any dimension, as polynomials that are orthonormal on the sphere exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations_with_replacement

import torch
from torch import Tensor

HIGHEST_DEGREE = 10


def _monomials(coordinates: int, dimension: int, degree: int) -> Iterator[tuple[int, ...]]:
    """Exponents whose monomials span the even harmonics up to `degree` of the first `coordinates` coordinates.

    In all coordinates the monomials of the degree itself do, since |theta|^2 = 1 lifts those of lower ones.
    """
    degrees = [degree] if coordinates == dimension else range(2, degree + 1, 2)
    for total in degrees:
        for chosen in combinations_with_replacement(range(coordinates), total):
            yield tuple(chosen.count(i) for i in range(coordinates))


def _moment(exponents: Tensor, dimension: int) -> Tensor:
    """E of the monomials over the unit sphere: prod (e_i - 1)!! / (D (D + 2) ... (D + |e| - 2)), 0 for odd ones."""
    numerator = torch.lgamma((exponents + 1) / 2).sum(-1) - exponents.shape[-1] * math.lgamma(0.5)
    total = exponents.sum(-1)
    logarithm = numerator + math.lgamma(dimension / 2) - torch.lgamma((dimension + total) / 2)
    return torch.where((exponents % 2 == 0).all(-1), logarithm.exp(), torch.zeros_like(logarithm))


@lru_cache(maxsize=32)
def _basis(coordinates: int, dimension: int, degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """Exponents (m, coordinates), means (m,) of the monomials, and the matrix (m, k) that makes them orthonormal."""
    exponents = torch.tensor(list(_monomials(coordinates, dimension, degree)), dtype=torch.float64)
    means = _moment(exponents, dimension)
    gram = _moment(exponents.unsqueeze(0) + exponents.unsqueeze(1), dimension) - means.outer(means)
    # Scaled to unit diagonal first: the moments of different monomials differ by orders of magnitude.
    scale = gram.diagonal().sqrt()
    scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale))
    values, vectors = torch.linalg.eigh(gram / scale.outer(scale))
    # The powers of |theta|^2 are constant on the sphere, so one eigenvalue is zero when all coordinates are there.
    kept = values > 1e-9 * values[-1]
    return exponents, means, vectors[:, kept] / values[kept].sqrt() / scale.unsqueeze(-1)


def number_of_harmonics(coordinates: int, dimension: int, degree: int) -> int:
    """How many even harmonics of degrees 2 to `degree` depend on the first `coordinates` of `dimension` coordinates."""
    if coordinates == dimension:
        return math.comb(dimension + degree - 1, degree) - 1
    return sum(math.comb(coordinates + total - 1, total) for total in range(2, degree + 1, 2))


def fitting_size(num_projections: int, dimension: int) -> tuple[int, int] | None:
    """Coordinates and degree of the largest basis that L directions can pay for, or None when not even one can be.

    A fit with half as many variates as draws already doubles what variance it leaves; beyond that it only gets worse.
    """
    budget = num_projections // 2
    if dimension == 1 or budget < 1:
        return None
    if number_of_harmonics(dimension, dimension, 2) <= budget:
        fitting = [
            degree
            for degree in range(2, HIGHEST_DEGREE + 1, 2)
            if number_of_harmonics(dimension, dimension, degree) <= budget
        ]
        return dimension, fitting[-1]
    coordinates = max(r for r in range(1, dimension) if number_of_harmonics(r, dimension, 2) <= budget)
    return coordinates, 2


def even_harmonics(directions: Tensor, degree: int, dimension: int | None = None) -> Tensor:
    """Orthonormal functions of mean 0 on the sphere: an even polynomial basis up to `degree`.

    Args:
        directions: (..., r) coordinates of unit vectors in `dimension` dimensions: all of them, or the first r.
        degree: Even, 2 to 10.
        dimension: D; None for r.

    Returns:
        (..., k), float64; over uniform directions the mean is 0 and the covariance the identity, exactly.
    """
    coordinates = directions.shape[-1]
    exponents, means, matrix = _basis(coordinates, coordinates if dimension is None else dimension, degree)
    theta = directions.double()
    powers = torch.stack([theta**e for e in range(degree + 1)], -1)
    monomials = torch.ones(*theta.shape[:-1], len(exponents), dtype=torch.float64, device=theta.device)
    for i in range(coordinates):
        monomials = monomials * powers[..., i, :][..., exponents[:, i].long().to(theta.device)]
    return (monomials - means.to(theta.device)) @ matrix.to(theta.device)
