"""Which right answers an update made likelier, by how likely they were: the diagnosis of rank bias."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from thunderstone_grpo.completions import group_ids, group_ranks
from thunderstone_grpo.log_probabilities import length_mask, mean_log_probabilities


@dataclass(frozen=True)
class RankUplift:
    """Right answers by their rank in the group, 0 the least likely. Two of them can be added.

    Attributes:
        rose: (G,) int64, how many became more probable.
        count: (G,) int64, how many there were.
    """

    rose: Tensor
    count: Tensor

    @property
    def share(self) -> Tensor:
        """(G,) float64, ``rose / count``; NaN at ranks without a right answer."""
        return self.rose.double() / self.count

    def __add__(self, other: RankUplift) -> RankUplift:
        width = max(len(self.count), len(other.count))
        rose, count = (
            sum(pad(getattr(one, name), (0, width - len(one.count))) for one in (self, other))
            for name in ("rose", "count")
        )
        return RankUplift(torch.as_tensor(rose), torch.as_tensor(count))


def uplift_by_rank(
    before: Tensor,
    after: Tensor,
    lengths: Tensor,
    correct: Tensor,
    groups: int | Tensor,
    *,
    scorable: Tensor | None = None,
    seed: int = 0,
) -> RankUplift:
    """Count the right answers whose probability rose, at each likelihood rank (He, Fried, Welleck 2025).

    A policy that is only sharpened shows shares that grow with the rank; unlikely right answers that do not rise are
    those that pass@N loses.

    Args:
        before: Log-probabilities (N, L) of the tokens before the update.
        after: The same after it.
        lengths: (N,) int64.
        correct: (N,) bool.
        groups: Size of the groups, or ids (N,).
        scorable: (N,) bool, which completions have a rank; None for all.
        seed: Of ties.
    """
    ids = group_ids(groups, len(lengths)).to(before.device)
    counted = torch.ones_like(correct) if scorable is None else scorable
    ranks = group_ranks(mean_log_probabilities(before, lengths), ids, counted, seed)
    change = torch.where(length_mask(lengths, before.shape[-1]), after.double() - before.double(), 0.0).sum(-1)
    size = int(torch.bincount(ids).max()) if len(ids) else 0
    right = correct & counted
    rose = torch.bincount(ranks[right & (change > 0)], minlength=size)
    return RankUplift(rose, torch.bincount(ranks[right], minlength=size))
