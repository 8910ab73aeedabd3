"""Opposing signals: groups of examples whose losses one step moves strongly, and in opposite directions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.arguments import finite


@dataclass(frozen=True)
class OpposingGroups:
    """The two tails of the per-example changes of the loss in one step.

    Attributes:
        rising: Positions of the examples whose loss rose most, int64, the strongest first.
        falling: Positions of those whose loss fell most, int64, the strongest first.
        rise: Mean change of the rising group, above 0 (0 where it is empty).
        fall: Mean change of the falling group, below 0 (0 where it is empty).
    """

    rising: Tensor
    falling: Tensor
    rise: float
    fall: float

    @property
    def strength(self) -> float:
        """How strongly the two oppose each other: the smaller of the two mean changes, in absolute value."""
        return min(self.rise, -self.fall)


def opposing_groups(changes: Tensor, fraction: float = 0.01) -> OpposingGroups:
    """The examples in the two tails of `changes`. Rosenfeld and Risteski 2023, arXiv 2311.04163, section 2.

    Args:
        changes: Loss after a step minus loss before it, for each example, shape (n,). Examples whose change is not
            finite are in neither group.
        fraction: Largest share of the examples in one tail, above 0 and at most 0.5; at least one example. An example
            whose loss did not rise is never in the rising group, and one whose loss did not fall never in the falling.

    Returns:
        The two groups.

    Raises:
        ArgumentError: `changes` is no vector, or `fraction` is out of range.

    >>> groups = opposing_groups(torch.tensor([0.0, -3.0, 0.1, 2.0]), fraction=0.25)
    >>> groups.rising.tolist(), groups.falling.tolist(), groups.strength
    ([3], [1], 2.0)
    """
    who = "opposing_groups"
    fraction = finite(who, "fraction", fraction, "0.01 takes one example in a hundred", above=0, maximum=0.5)
    if changes.ndim != 1 or not len(changes):
        shape = tuple(changes.shape)
        raise ArgumentError(who, "changes", shape, "one number for each example is needed", "pass a tensor (n,)")
    known = torch.where(torch.isfinite(changes), changes, torch.zeros_like(changes))
    size = max(1, int(fraction * len(known)))
    # Stable: examples that change alike are taken in their own order, the same on every device.
    order = torch.sort(known, descending=True, stable=True).indices
    rising = order[:size][known[order[:size]] > 0]
    falling = order.flip(0)[:size]
    falling = falling[known[falling] < 0]
    return OpposingGroups(rising, falling, _mean(known[rising]), _mean(known[falling]))


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else 0.0
