"""Auto-PGD: ascent in a ball that chooses its own step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from thunderstone.tensor_lists import total_norm

Objective = Callable[[list[Tensor]], tuple[float, list[Tensor]]]
"""Value and gradient at a point; all lists of tensors run parallel."""

_MOMENTUM = 0.75
_IMPROVING = 0.75


def apgd(
    objective: Objective, start: list[Tensor], *, rho: float, norm: str = "linf", steps: int = 20
) -> tuple[float, list[Tensor]]:
    """The highest value found in the ball of radius `rho`, and where.

    Croce and Hein 2020, arXiv 2003.01690, algorithm 1: the first step is ``2 rho``, momentum is 0.75, and at
    checkpoints (the first after 0.22 of the steps, then ever closer) the step is halved and the search returns to its
    best point when fewer than 75% of the steps since the last checkpoint improved, or when neither the step nor the
    best value has changed since then.

    Args:
        objective: See `Objective`.
        start: A point of the ball.
        rho: Radius.
        norm: ``"linf"`` or ``"l2"``, over all tensors together.
        steps: Number of steps; the objective is evaluated ``steps + 1`` times.

    Returns:
        The best value, at least that of `start`, and its point.
    """
    point = before = best = start
    value, gradient = objective(point)
    best_value, best_gradient = value, gradient
    step, halved = 2 * rho, False
    checkpoints = set(_checkpoints(steps))
    last_checkpoint, best_at_checkpoint, improving = 0, value, 0
    for number in range(1, steps + 1):
        towards = project(list(torch._foreach_add(point, _direction(gradient, norm), alpha=step)), rho, norm)
        share = 1.0 if number == 1 else _MOMENTUM
        new = torch._foreach_lerp(point, towards, share)
        torch._foreach_add_(new, torch._foreach_sub(point, before), alpha=1 - share)
        before, point = point, project(list(new), rho, norm)
        previous_value = value
        value, gradient = objective(point)
        improving += value > previous_value
        if value > best_value:
            best_value, best, best_gradient = value, point, gradient
        if number in checkpoints:
            few = improving < _IMPROVING * (number - last_checkpoint)
            halved = few or (not halved and best_value == best_at_checkpoint)
            if halved:
                step /= 2
                point, before, value, gradient = best, best, best_value, best_gradient
            last_checkpoint, best_at_checkpoint, improving = number, best_value, 0
    return best_value, best


def project(point: list[Tensor], rho: float, norm: str) -> list[Tensor]:
    """The nearest point of the ball."""
    if norm == "linf":
        return [tensor.clamp(-rho, rho) for tensor in point]
    length = float(total_norm(point))
    return point if length <= rho else list(torch._foreach_mul(point, rho / length))


def _direction(gradient: list[Tensor], norm: str) -> list[Tensor]:
    if norm == "linf":
        return list(torch._foreach_sign(gradient))
    length = float(total_norm(gradient))
    # At a stationary point there is no direction of ascent: stay there instead of dividing by zero.
    return list(torch._foreach_mul(gradient, 1 / length if length > 0 else 0.0))


def _checkpoints(steps: int) -> list[int]:
    """The paper's section 3.1: p_0 = 0, p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06)."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return [math.ceil(share * steps) for share in shares[1:-1]]
