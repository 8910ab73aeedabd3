"""Less for right answers that the policy would have given anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thunderstone.arguments import finite
from thunderstone_grpo.completions import ScoredCompletions, group_ids, group_ranks, group_sum
from thunderstone_grpo.log_probabilities import mean_log_probabilities


@dataclass(frozen=True)
class Unlikeliness:
    """`unlikeliness` as a strategy. He, Fried, Welleck 2025.

    Args:
        beta: How much the likeliest right answer loses, in [0, 1]. 0 changes nothing.
    """

    beta: float = 0.25
    stage: ClassVar[str] = "rewards"
    affine: ClassVar[bool] = False

    def __post_init__(self) -> None:
        hint = "the paper uses 0.25; above 1 a right answer could be worth less than a wrong one"
        finite(type(self).__name__, "beta", self.beta, hint, minimum=0, maximum=1)

    def __call__(self, values: Tensor, completions: ScoredCompletions) -> Tensor:
        """Shaped rewards (N,)."""
        return unlikeliness(
            values,
            completions.log_probabilities,
            completions.lengths,
            completions.groups,
            correct=completions.correct,
            beta=self.beta,
            seed=completions.seed,
        )


def unlikeliness(
    rewards: Tensor,
    log_probabilities: Tensor,
    lengths: Tensor,
    groups: int | Tensor,
    *,
    correct: Tensor | None = None,
    beta: float = 0.25,
    seed: int = 0,
) -> Tensor:
    r"""Lower the rewards of right answers the more, the likelier they were.

    .. math:: \tilde r_i = r_i \left(1 - \beta\, q_i / G\right) \quad\text{for right answers}

    q ranks all scorable completions of a group, right or wrong, by their length-averaged log-probability at the time of
    the rollout: 0 is the least likely, G-1 the likeliest (He, Fried, Welleck 2025, where ranks run the other way). It
    comes before any normalisation. Groups in which all or none are right keep their rewards: a spread made of
    likelihood alone would be a gradient without a lesson.

    Args:
        rewards: r, (N,), NaN where unscorable.
        log_probabilities: (N, L) at the time of the rollout.
        lengths: (N,) int64.
        groups: Size of the groups, or ids (N,).
        correct: (N,) bool; None for rewards above 0.
        beta: In [0, 1].
        seed: Of the draw that breaks ties.

    Returns:
        (N,) of the rewards' dtype; NaN stays NaN.
    """
    ids = group_ids(groups, len(rewards)).to(rewards.device)
    scorable = ~rewards.isnan()
    right = (rewards > 0 if correct is None else correct) & scorable
    size, solved = group_sum(scorable, ids), group_sum(right, ids)
    means = mean_log_probabilities(log_probabilities, lengths).to(rewards.device)
    ranks = group_ranks(means, ids, scorable, seed)
    factor = 1 - beta * ranks.double() / size.clamp(min=1)[ids]
    mixed = ((solved > 0) & (solved < size))[ids]
    return torch.where(right & mixed, (rewards.double() * factor).to(rewards.dtype), rewards)
