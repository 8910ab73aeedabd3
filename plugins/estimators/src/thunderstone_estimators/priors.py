"""Priors that a module's output can be matched to: standard distributions, to be shifted and scaled.

Each is a strategy of kind ``estimators.prior``: what another package declares can be named wherever one of these can.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Prior(Protocol):
    """The signature of an ``estimators.prior`` strategy.

    Args:
        count: N, how many points.
        dimension: D of the space they live in.
        generator: Where randomness comes from; on the CPU.

    Returns:
        Independent points, (N, D), float64, on the CPU.
    """

    def __call__(self, count: int, dimension: int, generator: torch.Generator) -> Tensor: ...


def normal(count: int, dimension: int, generator: torch.Generator) -> Tensor:
    """N(0, I)."""
    return torch.randn(count, dimension, generator=generator, dtype=torch.float64)


def uniform(count: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Uniform on the cube [-1, 1]^D."""
    return 2 * torch.rand(count, dimension, generator=generator, dtype=torch.float64) - 1


def laplace(count: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Independent Laplace coordinates of mean 0 and scale 1, by inversion."""
    u = torch.rand(count, dimension, generator=generator, dtype=torch.float64) - 0.5
    return -u.sign() * torch.log1p(-2 * u.abs())


def sphere(count: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Uniform on the unit sphere."""
    points = normal(count, dimension, generator)
    unit: Tensor = points / points.norm(dim=-1, keepdim=True)
    return unit
