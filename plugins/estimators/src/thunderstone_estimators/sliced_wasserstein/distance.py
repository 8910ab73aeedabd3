"""Sliced Wasserstein distances between point clouds, with control variates."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.arguments import finite, one_of, whole
from thunderstone_estimators.sliced_wasserstein.choice import Choice, controlled_mean
from thunderstone_estimators.sliced_wasserstein.clouds import CloudPair, checked_clouds
from thunderstone_estimators.sliced_wasserstein.directions import DIRECTIONS, draw_directions
from thunderstone_estimators.sliced_wasserstein.one_dimensional import projected_costs

WHO = "sliced_wasserstein_distance"


@overload
def sliced_wasserstein_distance(
    x: Tensor,
    y: Tensor,
    a: Tensor | None = ...,
    b: Tensor | None = ...,
    num_projections: int = ...,
    p: float = ...,
    control_variate: Choice | None = ...,
    directions: str = ...,
    projections: Tensor | None = ...,
    generator: torch.Generator | None = ...,
    chunk: int | None = ...,
    log: Literal[False] = ...,
) -> Tensor: ...


@overload
def sliced_wasserstein_distance(
    x: Tensor,
    y: Tensor,
    a: Tensor | None = ...,
    b: Tensor | None = ...,
    num_projections: int = ...,
    p: float = ...,
    control_variate: Choice | None = ...,
    directions: str = ...,
    projections: Tensor | None = ...,
    generator: torch.Generator | None = ...,
    chunk: int | None = ...,
    *,
    log: Literal[True],
) -> tuple[Tensor, dict[str, Any]]: ...


def sliced_wasserstein_distance(
    x: Tensor,
    y: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    num_projections: int = 50,
    p: float = 2,
    control_variate: Choice | None = None,
    directions: str = "uniform",
    projections: Tensor | None = None,
    generator: torch.Generator | None = None,
    chunk: int | None = None,
    log: bool = False,
) -> Tensor | tuple[Tensor, dict[str, Any]]:
    r"""Monte-Carlo estimate of the sliced Wasserstein distance of two weighted point clouds.

    .. math:: SW_p(\mu, \nu) = \left(\mathbb{E}_\theta W_p^p(\theta_\#\mu, \theta_\#\nu)\right)^{1/p}

    with directions uniform on the sphere. A control variate takes away variance at little cost (Nguyen & Ho 2023, arXiv
    2305.00402); the estimate of the p-th power is kept at 0 or above before the root. Differentiable in points and
    weights; the gradient is finite (zero) where clouds coincide.

    Args:
        x: Points, floating point, (N, D) or (B, N, D). float16 and bfloat16 are computed in float32.
        y: Points, (M, D) or (B, M, D); M may differ from N. One cloud is compared with every cloud of a batch.
        a: Weights of x, (N,) or (B, N), at least 0 and summing to 1; None for uniform.
        b: Weights of y, likewise.
        num_projections: L, the number of directions; not used with `projections`.
        p: Order, at least 1.
        control_variate: None for plain Monte Carlo, or ``"lower"``, ``"upper"``, ``"gaussian"``, ``"harmonic"`` or any
            other strategy of kind ``estimators.control_variate``; several in a list; or a `ControlVariate` that also
            says how to fit. Argued for p = 2, valid for any.
        directions: ``"uniform"``, ``"orthogonal"`` or ``"qmc"``, as in `draw_directions`.
        projections: Directions of one's own, one a column, (D, L), used as they are. With a control variate they have
            to be unit vectors, drawn uniformly.
        generator: Where directions come from; the same state gives the same directions. None for torch's own.
        chunk: Directions at a time: bounds memory to O(B chunk (N + M)), for the price of projecting and sorting a
            second time in the backward pass. None for all at once.
        log: Return a dictionary as well.

    Returns:
        The distance: 0-d, or (B,) for batches, float32 or float64. With `log` also a dictionary of ``projections``
        (D, L), ``projected_emds`` (W_p^p on each direction, (L,) or (B, L)) and ``control_variate`` (the
        `ControlVariateEstimate` of the p-th power, or None).

    Raises:
        ArgumentError: Something does not fit, is not finite or is out of range.
        UnknownNameError: There is no control variate of that name.

    Example:
        >>> x, y = torch.zeros(4, 2), torch.ones(4, 2)
        >>> value = sliced_wasserstein_distance(x, y, control_variate="lower")
        >>> round(value.item(), 4)  # |delta| / sqrt(2), without any variance
        1.0
    """
    order = finite(WHO, "p", p, "use 2, or 1 for less weight on far points", minimum=1)
    clouds = checked_clouds(WHO, x, y, a, b, order)
    theta = directions_for(WHO, clouds, num_projections, directions, projections, generator)
    if projections is not None and control_variate is not None:
        _check_unit(theta)
    costs = projected_costs(clouds, theta.to(clouds.x.dtype), checked_chunk(WHO, chunk))
    if control_variate is None:
        estimate, power = None, costs.mean(-1, dtype=torch.float64)
    else:
        power, estimate = controlled_mean(WHO, control_variate, costs, theta, clouds, generator, log)
    value = positive_root(power, order).to(costs.dtype)
    result = value if clouds.batched else value.squeeze(0)
    if not log:
        return result
    emds = costs if clouds.batched else costs.squeeze(0)
    return result, {"projections": theta.mT, "projected_emds": emds, "control_variate": estimate}


def positive_root(power: Tensor, p: float) -> Tensor:
    """``power ** (1/p)``, 0 with gradient 0 where an estimate is not above 0."""
    positive = power > 0
    return torch.where(positive, torch.where(positive, power, 1.0).pow(1 / p), torch.zeros_like(power))


def checked_chunk(who: str, chunk: int | None) -> int | None:
    """`chunk`, or ArgumentError."""
    return None if chunk is None else whole(who, "chunk", chunk, "use e.g. 100, or None for all directions at once")


def directions_for(
    who: str,
    clouds: CloudPair,
    num_projections: int,
    kind: str,
    projections: Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    """The directions of a call, (L, D) in float64, drawn or given."""
    one_of(who, "directions", kind, DIRECTIONS)
    if projections is None:
        count = whole(who, "num_projections", num_projections, "50 to 1000 are usual")
        return draw_directions(kind, count, clouds.dimension, generator, clouds.x.device)
    if not isinstance(projections, Tensor) or not projections.is_floating_point():
        got = f"a tensor of {projections.dtype}" if isinstance(projections, Tensor) else type(projections).__name__
        hint = "pass directions as the columns of a (D, L) tensor"
        raise ArgumentError(who, "projections", got, "it must be a floating point tensor", hint)
    if projections.dim() != 2 or projections.shape[0] != clouds.dimension or projections.shape[1] == 0:
        reason = f"the points have {clouds.dimension} dimensions"
        hint = "pass directions as the columns of a (D, L) tensor"
        raise ArgumentError(who, "projections", tuple(projections.shape), reason, hint)
    if not bool(torch.isfinite(projections.detach()).all()):
        raise ArgumentError(who, "projections", "NaN or infinite", "directions must be finite", "divide by their norm")
    return projections.mT.to(clouds.x.device, torch.float64)


def _check_unit(theta: Tensor) -> None:
    norms = theta.detach().norm(dim=-1)
    if bool(((norms - 1).abs() > 1e-3).any()):
        raise ArgumentError(
            WHO,
            "projections",
            f"norms from {norms.min().item():g} to {norms.max().item():g}",
            "the mean of a control variate is known for unit vectors only",
            "divide each column by its norm, or use control_variate=None",
        )
