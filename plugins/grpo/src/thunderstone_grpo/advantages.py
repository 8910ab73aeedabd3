"""How good a completion is compared with its group: strategies of the kind ``grpo.advantage``.

Each is called with shaped rewards (N,) and the `ScoredCompletions`, and returns advantages (N,). Functions of the same
name in lower case are the arithmetic alone. Unscorable completions (NaN) enter no statistic and have advantage 0.

`removes` says which affine changes of the rewards leave no trace in the advantages: ``"shift"`` (adding a constant) and
``"scale"`` (multiplying by one). `check_combination` reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.arguments import finite
from thunderstone_grpo.completions import ScoredCompletions, group_ids, group_sum

Advantage = Callable[[Tensor, ScoredCompletions], Tensor]


@dataclass(frozen=True)
class GroupZScore:
    """`group_z_score`: GRPO's advantage. Shao et al. 2024, section 4.1.2.

    Args:
        eps: Added to the standard deviation, at least 0: 1e-4 in TRL, 1e-6 in verl.
    """

    eps: float = 1e-4
    removes: ClassVar[frozenset[str]] = frozenset({"shift", "scale"})
    least_group_size: ClassVar[int] = 2

    def __post_init__(self) -> None:
        finite(type(self).__name__, "eps", self.eps, "use 1e-4", above=0)

    def __call__(self, rewards: Tensor, completions: ScoredCompletions) -> Tensor:
        """Advantages (N,)."""
        return group_z_score(rewards, completions.groups, self.eps)


@dataclass(frozen=True)
class Centred:
    """`centred`: without the division, which makes nearly solved and nearly hopeless prompts weigh more. Liu et al.
    2025 (Dr. GRPO)."""

    removes: ClassVar[frozenset[str]] = frozenset({"shift"})
    least_group_size: ClassVar[int] = 2

    def __call__(self, rewards: Tensor, completions: ScoredCompletions) -> Tensor:
        """Advantages (N,)."""
        return centred(rewards, completions.groups)


@dataclass(frozen=True)
class LeaveOneOut:
    """`leave_one_out`: the mean of the others is the baseline. Kool et al. 2019; Ahmadian et al. 2024 (RLOO)."""

    removes: ClassVar[frozenset[str]] = frozenset({"shift"})
    least_group_size: ClassVar[int] = 2

    def __call__(self, rewards: Tensor, completions: ScoredCompletions) -> Tensor:
        """Advantages (N,)."""
        return leave_one_out(rewards, completions.groups)


@dataclass(frozen=True)
class FixedScale:
    """``(r - baseline) / scale``, the same for every group: nothing of the group enters.

    Args:
        scale: Above 0.
        baseline: What no reward is better or worse than.
    """

    scale: float = 1.0
    baseline: float = 0.0
    removes: ClassVar[frozenset[str]] = frozenset()
    least_group_size: ClassVar[int] = 1

    def __post_init__(self) -> None:
        finite(type(self).__name__, "scale", self.scale, "use 1", above=0)
        finite(type(self).__name__, "baseline", self.baseline, "use 0, or the mean reward you expect")

    def __call__(self, rewards: Tensor, completions: ScoredCompletions) -> Tensor:
        """Advantages (N,)."""
        return ((rewards.double() - self.baseline) / self.scale).nan_to_num(nan=0.0).to(rewards.dtype)


@dataclass(frozen=True)
class ForwardCorrection:
    """`forward_weights`: for a verifier that refuses some right answers. Cai et al. 2025, forward correction.

    It is an advantage and not a shaper, because nothing may follow it: a group's z-score would cancel it.

    Args:
        false_negatives: ρ₁, the share of right answers the verifier refuses, in [0, 1).
    """

    false_negatives: float
    removes: ClassVar[frozenset[str]] = frozenset()
    least_group_size: ClassVar[int] = 1
    binary: ClassVar[bool] = True

    def __post_init__(self) -> None:
        rate(type(self).__name__, "false_negatives", self.false_negatives)

    def __call__(self, rewards: Tensor, completions: ScoredCompletions) -> Tensor:
        """Advantages (N,)."""
        return forward_weights(rewards, self.false_negatives)


def rate(who: str, argument: str, value: object) -> float:
    """A share in [0, 1), or ArgumentError."""
    number = finite(who, argument, value, "measure it on answers that were checked by hand", minimum=0)
    if number >= 1:
        reason = "a verifier that is always wrong says nothing"
        raise ArgumentError(who, argument, value, reason, "pass a share in [0, 1), e.g. 0.1")
    return number


def group_z_score(rewards: Tensor, groups: int | Tensor, eps: float = 1e-4) -> Tensor:
    r"""``(r - mean) / (std + eps)`` within each group, with the unbiased standard deviation.

    Args:
        rewards: (N,), NaN where unscorable.
        groups: Size of the groups, or ids (N,).
        eps: Above 0.

    Returns:
        (N,) of the rewards' dtype. 0 where unscorable, and in groups with fewer than two scorable completions.
    """
    difference, count, ids = _centred(rewards, groups)
    spread = (group_sum(difference.square(), ids) / (count - 1).clamp(min=1)).sqrt()
    return (difference / (spread + eps)[ids]).to(rewards.dtype)


def centred(rewards: Tensor, groups: int | Tensor) -> Tensor:
    """``r - mean`` within each group. What is 0 is as in `group_z_score`.

    Args:
        rewards: As in `group_z_score`.
        groups: As in `group_z_score`.
    """
    return _centred(rewards, groups)[0].to(rewards.dtype)


def leave_one_out(rewards: Tensor, groups: int | Tensor) -> Tensor:
    """``r - mean of the others`` within each group, which is ``n / (n - 1)`` times `centred`.

    The baseline of a completion does not depend on it, so the gradient stays unbiased. What is 0 is as in
    `group_z_score`.

    Args:
        rewards: As in `group_z_score`.
        groups: As in `group_z_score`.
    """
    difference, count, ids = _centred(rewards, groups)
    return (difference * (count / (count - 1).clamp(min=1))[ids]).to(rewards.dtype)


def forward_weights(rewards: Tensor, false_negatives: float) -> Tensor:
    """``ρ₁`` for a reward of 1 and ``ρ₁ - 1`` for 0: weights of the score function.

    Their mean is 0 over what the verifier says of a right answer, and ρ₀ + ρ₁ - 1 for a wrong one, with ρ₀ the false
    positives: the gradient of an exact verifier's reward minus 1, times 1 - ρ₀ - ρ₁, and ρ₀ need not be known.

    Args:
        rewards: (N,), 0 or 1, NaN where unscorable.
        false_negatives: ρ₁ in [0, 1).

    Raises:
        ArgumentError: A reward is something else.
    """
    unscorable = rewards.isnan()
    if not bool(((rewards == 0) | (rewards == 1) | unscorable).all()):
        odd = rewards[~((rewards == 0) | (rewards == 1) | unscorable)][0].item()
        hint = "use it with one verifier that says 0 or 1 and without shapers, or choose another advantage"
        raise ArgumentError("ForwardCorrection", "rewards", odd, "the weights are defined for 0 and 1 alone", hint)
    return torch.where(unscorable, 0.0, rewards + (false_negatives - 1))


def _centred(rewards: Tensor, groups: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Differences from the group's mean (N,) in float64, 0 where there is nothing to compare; counts (P,); ids (N,)."""
    ids = group_ids(groups, len(rewards)).to(rewards.device)
    scorable = ~rewards.isnan()
    values = torch.where(scorable, rewards.double(), 0.0)
    count = group_sum(scorable, ids)
    mean = group_sum(values, ids) / count.clamp(min=1)
    compared = scorable & (count >= 2)[ids]
    return torch.where(compared, values - mean[ids], 0.0), count, ids
