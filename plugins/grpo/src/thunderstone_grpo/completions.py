"""What strategies are given: scored completions in groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thunderstone import ArgumentError

WHO = "groups"


@dataclass(frozen=True)
class ScoredCompletions:
    """N completions of P prompts, with what is known about them when advantages are made.

    Unscorable completions have a reward of NaN. The rule everywhere: a group with unscorable completions is treated
    as the smaller group of its scorable ones. They enter no mean, spread, rank or count, and have no advantage.

    Attributes:
        rewards: (N,) floating point, raw totals; NaN where unscorable.
        log_probabilities: (N, L) of the tokens at the time of the rollout.
        lengths: (N,) int64.
        groups: (N,) int64, which prompt: 0 … P-1.
        correct: (N,) bool, which completions count as right, by their raw rewards.
        parts: Raw rewards by the function that gave them, (N,) each.
        seed: Of ties; another one for each rollout.
    """

    rewards: Tensor
    log_probabilities: Tensor
    lengths: Tensor
    groups: Tensor
    correct: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", group_ids(self.groups, len(self.rewards)).to(self.rewards.device))
        for name in ("log_probabilities", "lengths", "correct"):
            value = getattr(self, name)
            if len(value) != len(self.rewards):
                reason = f"there are {len(self.rewards)} rewards"
                raise ArgumentError(type(self).__name__, name, tuple(value.shape), reason, "pass one row a completion")
        object.__setattr__(self, "correct", self.correct & self.scorable)

    @property
    def scorable(self) -> Tensor:
        """(N,) bool."""
        return ~self.rewards.isnan()

    @property
    def informative(self) -> Tensor:
        """(P,) bool: some of the scorable completions are right, and some are not.

        Tested on raw rewards: shaping gives a group that is right throughout a spread, and with it a gradient.
        """
        right, all_ = group_sum(self.correct, self.groups), group_sum(self.scorable, self.groups)
        return (right > 0) & (right < all_)


def group_ids(groups: int | Tensor, count: int) -> Tensor:
    """(N,) int64: a tensor of ids as it is, or runs of that many rows.

    Raises:
        ArgumentError: The number of rows is no multiple of the size, or ids do not fit.
    """
    if isinstance(groups, Tensor):
        if groups.shape != (count,) or groups.is_floating_point() or (count and int(groups.min()) < 0):
            hint = "pass one id 0, 1, … a completion, or the size of the groups"
            raise ArgumentError(WHO, "groups", tuple(groups.shape), f"there are {count} completions", hint)
        return groups.long()
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or count % groups:
        hint = "pass a divisor of the number of completions, or one id a completion"
        raise ArgumentError(WHO, "groups", groups, f"it does not divide {count} completions", hint)
    return torch.arange(count // groups).repeat_interleave(groups)


def group_sum(values: Tensor, groups: Tensor) -> Tensor:
    """The sum (P,) in each group of values (N,), in float64."""
    number = int(groups.max()) + 1 if len(groups) else 0
    return torch.zeros(number, dtype=torch.float64, device=values.device).index_add_(0, groups, values.double())


def has_spread(rewards: Tensor, groups: int | Tensor) -> Tensor:
    """(P,) bool: whether the scorable rewards of a group differ. For rewards that are not right or wrong.

    Args:
        rewards: (N,), NaN where unscorable.
        groups: Size, or ids (N,).
    """
    ids = group_ids(groups, len(rewards)).to(rewards.device)
    number = int(ids.max()) + 1 if len(ids) else 0
    extremes = []
    for sign in (1, -1):
        values = torch.where(rewards.isnan(), -torch.inf, sign * rewards.double())
        empty = torch.full((number,), -torch.inf, dtype=torch.float64, device=rewards.device)
        extremes.append(empty.scatter_reduce(0, ids, values, "amax"))
    largest, smallest = extremes[0], -extremes[1]
    return largest > smallest


def group_ranks(keys: Tensor, groups: Tensor, counted: Tensor, seed: int) -> Tensor:
    """(N,) int64: how many counted completions of the same group have a smaller key; ties by a seeded draw.

    Args:
        keys: (N,).
        groups: (N,) int64.
        counted: (N,) bool; the others have rank 0 and take no rank away.
        seed: Of the draw. Positions would favour whoever was generated first.
    """
    draws = torch.rand(len(keys), generator=torch.Generator().manual_seed(seed)).to(keys.device)
    order = draws.argsort()
    order = order[keys[order].argsort(stable=True)]
    order = order[counted[order]]
    order = order[groups[order].argsort(stable=True)]
    sorted_groups = groups[order]
    starts = torch.searchsorted(sorted_groups, sorted_groups)
    ranks = torch.zeros(len(keys), dtype=torch.int64, device=keys.device)
    ranks[order] = torch.arange(len(order), device=keys.device) - starts
    return ranks
