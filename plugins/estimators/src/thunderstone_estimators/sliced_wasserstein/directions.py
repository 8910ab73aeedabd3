"""Directions to project on: independent, orthogonal, or evenly spread, each of them uniform on the sphere."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.arguments import one_of, whole

SOBOL_DIMENSIONS = torch.quasirandom.SobolEngine.MAXDIM


def draw_directions(
    kind: str,
    num_projections: int,
    dimension: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw unit vectors whose every single one is uniform on the sphere, so that means over them are unbiased.

    Always in float64 and all at once: a generator's state gives the same directions whatever the precision of the
    points and however they are chunked.

    Args:
        kind: ``"uniform"``: independent. ``"orthogonal"``: orthonormal blocks of `dimension` (Haar). ``"qmc"``:
            randomised quasi-Monte-Carlo: equal angles in the plane and a spherical Fibonacci lattice in space, both of
            half the sphere (a projection does not know its sign) and rotated at random, and from four dimensions on a
            scrambled Sobol sequence, best with a power of two.
        num_projections: L, at least 1.
        dimension: D, at least 1.
        generator: Where randomness comes from; None for the global generator of `device`.
        device: Where the result goes.

    Returns:
        (L, D), float64.

    Raises:
        ArgumentError: There is no such kind, or Sobol sequences do not reach that dimension.
    """
    who = "draw_directions"
    count = whole(who, "num_projections", num_projections, "at least one direction is needed")
    size = whole(who, "dimension", dimension, "points have at least one coordinate")
    source = torch.device(device) if generator is None else generator.device
    return DIRECTIONS[one_of(who, "kind", kind, DIRECTIONS)](count, size, generator, source).to(device)


def _uniform(count: int, dimension: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    gaussian = torch.randn(count, dimension, generator=generator, device=device, dtype=torch.float64)
    unit: Tensor = gaussian / gaussian.norm(dim=-1, keepdim=True)
    return unit


def _orthogonal(count: int, dimension: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    width = min(count, dimension)
    blocks = -(-count // width)
    gaussian = torch.randn(blocks, dimension, width, generator=generator, device=device, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    # Without the signs of R's diagonal Q is not uniform (Mezzadri 2007).
    q = q * torch.diagonal(r, dim1=-2, dim2=-1).sgn().unsqueeze(-2)
    rows: Tensor = q.mT.reshape(-1, dimension)[:count]
    return rows


def _qmc(count: int, dimension: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    if dimension == 1:
        return _uniform(count, 1, generator, device)
    index = torch.arange(count, device=device, dtype=torch.float64)
    if dimension == 2:
        turn = 2 * math.pi * torch.rand((), generator=generator, device=device, dtype=torch.float64)
        angle = math.pi * index / count + turn
        return torch.stack([angle.cos(), angle.sin()], -1)
    if dimension == 3:
        height = (index + 0.5) / count
        angle = math.pi * (3 - math.sqrt(5)) * index
        radius = (1 - height.square()).sqrt()
        lattice = torch.stack([radius * angle.cos(), radius * angle.sin(), height], -1)
        return lattice @ _orthogonal(3, 3, generator, device)
    if dimension > SOBOL_DIMENSIONS:
        raise ArgumentError(
            "draw_directions",
            "kind",
            "qmc",
            f"Sobol sequences have at most {SOBOL_DIMENSIONS} dimensions, not {dimension}",
            "use 'orthogonal', the better choice in high dimensions",
        )
    seed = int(torch.randint(2**31 - 1, (), generator=generator, device=device))
    engine = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=seed)
    # Sobol points are multiples of 2^-30 that begin at 0: half a step keeps their Gaussian quantiles finite.
    points = engine.draw(count, dtype=torch.float64).to(device) + 2**-31
    gaussian = torch.special.ndtri(points)
    unit: Tensor = gaussian / gaussian.norm(dim=-1, keepdim=True)
    return unit


Directions = Callable[[int, int, "torch.Generator | None", torch.device], Tensor]
DIRECTIONS: dict[str, Directions] = {"uniform": _uniform, "orthogonal": _orthogonal, "qmc": _qmc}
