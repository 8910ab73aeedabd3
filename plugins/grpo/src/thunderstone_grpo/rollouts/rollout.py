"""One rollout: completions of a batch's prompts with their rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thunderstone_grpo.completions import has_spread


@dataclass
class Rollout:
    """N completions on the CPU, in groups that share a prompt.

    Attributes:
        prompts: Ids of each completion's prompt.
        completions: Ids of each completion.
        truncated: (N,) bool: it ran to its full length without an end token, where there are any.
        group: (N,) int64: which prompt of the batch it answers.
        shown: Prompt and completion of each, as reward functions see them.
        rewards: (N,) float64, NaN where a completion could not be scored.
        parts: The reward functions' own values (N,) by name, NaN where they have none.
        unscorable: How many completions could not be scored, by reason.
        metrics: What reward functions reported themselves, by name.
        attempts: How often groups were drawn again.
    """

    prompts: list[Tensor]
    completions: list[Tensor]
    truncated: Tensor
    group: Tensor
    shown: list[tuple[Any, Any]]
    rewards: Tensor
    parts: dict[str, Tensor]
    unscorable: dict[str, int]
    metrics: dict[str, float]
    attempts: int = 0

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def lengths(self) -> Tensor:
        """(N,) int64, of the completions."""
        return torch.tensor([len(ids) for ids in self.completions])

    def without(self, groups: Tensor) -> Rollout:
        """What is left of it when some groups are taken out."""
        rows = (~torch.isin(self.group, groups)).nonzero().squeeze(1)
        numbers = rows.tolist()
        return Rollout(
            [self.prompts[row] for row in numbers],
            [self.completions[row] for row in numbers],
            self.truncated[rows],
            self.group[rows],
            [self.shown[row] for row in numbers],
            self.rewards[rows],
            {name: values[rows] for name, values in self.parts.items()},
            dict(self.unscorable),
            dict(self.metrics),
            self.attempts,
        )

    def joined(self, other: Rollout) -> Rollout:
        """Both, groups in the order of their prompts."""
        group = torch.cat([self.group, other.group])
        rows = group.argsort(stable=True)
        numbers = rows.tolist()
        names = dict.fromkeys((*self.parts, *other.parts))
        reasons = dict.fromkeys((*self.unscorable, *other.unscorable))

        def part(name: str) -> Tensor:
            nothing = (torch.full_like(one.rewards, torch.nan) for one in (self, other))
            return torch.cat([one.parts.get(name, nan) for one, nan in zip((self, other), nothing, strict=True)])[rows]

        return Rollout(
            [(self.prompts + other.prompts)[row] for row in numbers],
            [(self.completions + other.completions)[row] for row in numbers],
            torch.cat([self.truncated, other.truncated])[rows],
            group[rows],
            [(self.shown + other.shown)[row] for row in numbers],
            torch.cat([self.rewards, other.rewards])[rows],
            {name: part(name) for name in names},
            {reason: self.unscorable.get(reason, 0) + other.unscorable.get(reason, 0) for reason in reasons},
            {**self.metrics, **other.metrics},
            max(self.attempts, other.attempts),
        )


def groups_without_signal(rewards: Tensor, group: Tensor) -> Tensor:
    """The ids of groups whose raw rewards do not differ: less than two of them can be scored, or all are the same.

    Args:
        rewards: (N,) raw rewards, NaN where there is none.
        group: (N,) int64.
    """
    ids, compact = group.unique(return_inverse=True)
    dead: Tensor = ids[~has_spread(rewards, compact)]
    return dead
