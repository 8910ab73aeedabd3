"""The max-sliced Wasserstein distance: along the worst direction instead of the average one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thunderstone.arguments import finite, whole
from thunderstone_estimators.sliced_wasserstein.clouds import CloudPair, checked_clouds
from thunderstone_estimators.sliced_wasserstein.distance import checked_chunk, directions_for, positive_root
from thunderstone_estimators.sliced_wasserstein.one_dimensional import projected_costs

WHO = "max_sliced_wasserstein_distance"


def max_sliced_wasserstein_distance(
    x: Tensor,
    y: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    num_projections: int = 50,
    p: float = 2,
    num_steps: int = 0,
    directions: str = "uniform",
    projections: Tensor | None = None,
    generator: torch.Generator | None = None,
    chunk: int | None = None,
    log: bool = False,
) -> Tensor | tuple[Tensor, dict[str, Any]]:
    r"""Largest Wasserstein distance of two clouds' projections. Deshpande et al. 2019, arXiv 1904.05877.

    .. math:: \max_\theta W_p(\theta_\#\mu, \theta_\#\nu)

    The best of the directions drawn, and from there `num_steps` steps of ascent on the sphere, none of which makes it
    worse. A lower bound of the true maximum in any case. The gradient is that along the direction found.

    Args:
        x: Points, (N, D) or (B, N, D), as in `sliced_wasserstein_distance`.
        y: Points, (M, D) or (B, M, D).
        a: Weights of x, (N,) or (B, N); None for uniform.
        b: Weights of y, likewise.
        num_projections: L, how many directions are drawn; not used with `projections`.
        p: Order, at least 1.
        num_steps: Steps of ascent, 0 or more; 20 usually suffice. 0 is what POT computes.
        directions: ``"uniform"``, ``"orthogonal"`` or ``"qmc"``, as in `draw_directions`.
        projections: Directions to choose from and begin at, (D, L); used as they are, as POT does.
        generator: Where directions come from; None for torch's own.
        chunk: Directions at a time, to bound memory. None for all at once.
        log: Return a dictionary as well.

    Returns:
        The distance: 0-d, or (B,) for batches. With `log` also a dictionary of ``projections`` (D, L),
        ``projected_emds`` (W_p^p on each, (L,) or (B, L)) and ``direction``, the one found, (D,) or (B, D).

    Raises:
        ArgumentError: As `sliced_wasserstein_distance`, and for a negative `num_steps`.
    """
    order = finite(WHO, "p", p, "use 2, or 1 for less weight on far points", minimum=1)
    steps = whole(WHO, "num_steps", num_steps, "use 20, or 0 for the best of the directions drawn", minimum=0)
    clouds = checked_clouds(WHO, x, y, a, b, order)
    theta = directions_for(WHO, clouds, num_projections, directions, projections, generator)
    with torch.no_grad():
        costs = projected_costs(clouds, theta.to(clouds.x.dtype), checked_chunk(WHO, chunk))
    best = theta.to(clouds.x.dtype)[costs.argmax(-1)]
    if steps:
        best = _ascended(clouds, best, steps)
    power = projected_costs(clouds, best.unsqueeze(-2)).squeeze(-1)
    value = positive_root(power, order)
    result = value if clouds.batched else value.squeeze(0)
    if not log:
        return result
    if not clouds.batched:
        costs, best = costs.squeeze(0), best.squeeze(0)
    return result, {"projections": theta.mT, "projected_emds": costs, "direction": best}


def _ascended(clouds: CloudPair, start: Tensor, steps: int) -> Tensor:
    """Normalised gradient ascent from `start` (B, D); the step length of each pair halves where it fails."""
    constant = CloudPair(
        clouds.x.detach(),
        clouds.y.detach(),
        None if clouds.a is None else clouds.a.detach(),
        None if clouds.b is None else clouds.b.detach(),
        clouds.p,
        clouds.batched,
        0.0,
    )
    # Directions of one's own need not have length 1; their length is kept.
    length = start.norm(dim=-1, keepdim=True)
    theta = start.detach() / length
    rate = torch.ones_like(length)
    with torch.enable_grad():
        theta = theta.requires_grad_()
        cost = projected_costs(constant, theta.unsqueeze(-2)).squeeze(-1)
        (gradient,) = torch.autograd.grad(cost.sum(), theta)
        for _ in range(steps):
            tangent = gradient - (gradient * theta).sum(-1, keepdim=True) * theta
            size = tangent.norm(dim=-1, keepdim=True)
            moved = theta + rate * tangent / torch.where(size > 0, size, 1.0)
            moved = (moved / moved.norm(dim=-1, keepdim=True)).detach().requires_grad_()
            reached = projected_costs(constant, moved.unsqueeze(-2)).squeeze(-1)
            (onward,) = torch.autograd.grad(reached.sum(), moved)
            better = (reached > cost).unsqueeze(-1)
            rate = torch.where(better, rate, rate / 2)
            theta, gradient = torch.where(better, moved, theta), torch.where(better, onward, gradient)
            cost = torch.maximum(cost, reached)
    found: Tensor = theta.detach() * length
    return found
