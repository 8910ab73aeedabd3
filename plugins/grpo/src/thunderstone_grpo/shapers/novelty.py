"""More for right answers that are unlike the group's others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thunderstone.arguments import finite
from thunderstone_grpo.completions import ScoredCompletions, group_ids, group_sum
from thunderstone_grpo.log_probabilities import mean_log_probabilities


@dataclass(frozen=True)
class Novelty:
    """`novelty` as a strategy: XRPO's novelty-guided sharpening of advantages.

    Args:
        weight: λ, at least 0. 0 changes nothing.
        cap: κ, at least 0: the bonus is at most this share of the advantage.
    """

    weight: float = 2.5
    cap: float = 0.5
    stage: ClassVar[str] = "advantages"
    affine: ClassVar[bool] = False

    def __post_init__(self) -> None:
        finite(type(self).__name__, "weight", self.weight, "the paper uses 2.5", minimum=0)
        finite(type(self).__name__, "cap", self.cap, "the paper uses 0.5", minimum=0)

    def __call__(self, values: Tensor, completions: ScoredCompletions) -> Tensor:
        """Sharpened advantages (N,)."""
        return novelty(
            values,
            completions.log_probabilities,
            completions.lengths,
            completions.groups,
            correct=completions.correct,
            scorable=completions.scorable,
            weight=self.weight,
            cap=self.cap,
        )


def novelty(
    advantages: Tensor,
    log_probabilities: Tensor,
    lengths: Tensor,
    groups: int | Tensor,
    *,
    correct: Tensor,
    scorable: Tensor | None = None,
    weight: float = 2.5,
    cap: float = 0.5,
) -> Tensor:
    r"""Raise the advantages of right answers that are less likely than the group's mean.

    .. math:: A_i \leftarrow A_i + \min(\max(\lambda(1-\eta_i), 0), \kappa A_i), \qquad \eta_i = e^{s_i - \bar s}

    s is the length-averaged log-probability and its bar the mean over the group's scorable completions (XRPO, Bamba et
    al. 2025). Only right answers with a positive advantage: with |A| in the place of A, wrong ones would be raised.

    Args:
        advantages: A, (N,).
        log_probabilities: (N, L) at the time of the rollout.
        lengths: (N,) int64.
        groups: Size of the groups, or ids (N,).
        correct: (N,) bool.
        scorable: (N,) bool; None for all.
        weight: λ.
        cap: κ.

    Returns:
        (N,) of the advantages' dtype.
    """
    ids = group_ids(groups, len(advantages)).to(advantages.device)
    counted = torch.ones_like(correct) if scorable is None else scorable
    means = mean_log_probabilities(log_probabilities, lengths).double().to(advantages.device)
    average = group_sum(torch.where(counted, means, 0.0), ids) / group_sum(counted, ids).clamp(min=1)
    likelihood = (means - average[ids]).exp()
    bonus = torch.minimum(weight * (1 - likelihood).clamp(min=0), cap * advantages.double())
    raised = correct & counted & (advantages > 0)
    return torch.where(raised, (advantages.double() + bonus).to(advantages.dtype), advantages)
