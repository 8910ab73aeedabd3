"""The reward an exact verifier would have given, on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from thunderstone import ArgumentError
from thunderstone_grpo.advantages import rate
from thunderstone_grpo.completions import ScoredCompletions


@dataclass(frozen=True)
class BackwardCorrection:
    """`backward_correction` as a strategy.

    It is affine, the same for every completion, so what centres rewards leaves of it a scale, and a group's z-score
    nothing: use ``advantage="fixed_scale"``.

    Args:
        false_positives: ρ₀, the share of wrong answers the verifier takes for right, in [0, 1).
        false_negatives: ρ₁, the share of right answers it refuses; ρ₀ + ρ₁ below 1.
    """

    false_positives: float
    false_negatives: float
    stage: ClassVar[str] = "rewards"
    affine: ClassVar[bool] = True

    def __post_init__(self) -> None:
        who = type(self).__name__
        total = sum(rate(who, name, getattr(self, name)) for name in ("false_positives", "false_negatives"))
        if total >= 1:
            reason = f"with false_positives={self.false_positives:g} they sum to {total:g}, so a verdict says nothing"
            raise ArgumentError(who, "false_negatives", self.false_negatives, reason, "pass shares that sum to less")

    def __call__(self, values: Tensor, completions: ScoredCompletions) -> Tensor:
        """Corrected rewards (N,)."""
        return backward_correction(values, self.false_positives, self.false_negatives)


def backward_correction(rewards: Tensor, false_positives: float, false_negatives: float) -> Tensor:
    """``(r - ρ₀) / (1 - ρ₀ - ρ₁)``, whose mean over the verifier's errors is the exact reward (Cai et al. 2025).

    Args:
        rewards: (N,), 0 or 1 by the verifier; NaN stays NaN.
        false_positives: ρ₀.
        false_negatives: ρ₁; ρ₀ + ρ₁ below 1.
    """
    return (rewards - false_positives) / (1 - false_positives - false_negatives)
