"""The control variate of SVRG: what the snapshot knows of a batch, taken off the batch's gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Gradients = Sequence[Tensor | None]


@torch.no_grad()
def deviations(at_snapshot: Gradients, full: Gradients, share: float | Tensor = 1.0) -> list[Tensor | None]:
    """``g_i(w~) - share * g(w~)``: by how much a batch's gradient at the snapshot misses the full one.

    Its mean over batches is zero, whatever `share` the batch's loss is scaled by.

    Args:
        at_snapshot: The batch's gradients at the snapshot's weights, one a parameter; None counts as zero.
        full: The full gradients there, parallel to `at_snapshot`.
        share: What the batch's loss was multiplied by: a loss scale, or the part of a whole update that the last one
            of an epoch is.

    Returns:
        One a parameter; None where both are None.
    """
    return _difference(at_snapshot, full, share)


@torch.no_grad()
def corrected_gradients(
    gradients: Gradients, deviation: Gradients, alpha: float | Sequence[Tensor | float]
) -> list[Tensor | None]:
    """``g_i(w) - alpha (g_i(w~) - g(w~))``. Johnson & Zhang 2013; with a coefficient, Yin et al. 2023.

    Args:
        gradients: The batch's gradients at the present weights, one a parameter; None counts as zero.
        deviation: What `deviations` gives, parallel to `gradients`.
        alpha: One coefficient, or one for each parameter.

    Returns:
        One a parameter; None where both are None.
    """
    return _difference(gradients, deviation, alpha)


def _difference(
    first: Gradients, second: Gradients, factor: float | Tensor | Sequence[Tensor | float]
) -> list[Tensor | None]:
    """``first - factor * second``; the tensors of `first` themselves where there is nothing to take off."""
    found: list[Tensor | None] = list(first)
    number_for_all = factor if isinstance(factor, (int, float)) else None
    factors = [factor] * len(found) if isinstance(factor, (int, float, Tensor)) else factor
    numbers: list[int] = []
    ones: list[Tensor] = []
    others: list[Tensor] = []
    for number, (one, other, own) in enumerate(zip(first, second, factors, strict=True)):
        if other is None:
            continue
        if one is None:
            found[number] = -own * other
        elif number_for_all is not None:
            numbers.append(number)
            ones.append(one)
            others.append(other)
        else:
            found[number] = one - own * other
    if numbers and number_for_all is not None:
        # In one go, and without a copy of `second`.
        for number, value in zip(numbers, torch._foreach_sub(ones, others, alpha=number_for_all), strict=True):
            found[number] = value
    return found
