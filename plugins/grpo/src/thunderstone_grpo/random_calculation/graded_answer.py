"""The reward of RandomCalculation, which knows nearly right."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from thunderstone_grpo.rewards.arithmetic import against_answers, last_number


def graded_reward(found: float | Fraction, right: float | Fraction) -> float:
    r"""``1 - min(|a - b|, 1) / 2 - min(|a - b| / (|b| + 1e-6), 1) / 2`` (Wu et al. 2025).

    Args:
        found: a.
        right: b.
    """
    distance = abs(Fraction(found) - Fraction(right))
    relative = distance / (abs(Fraction(right)) + Fraction(1, 10**6))
    return 1 - float(min(distance, Fraction(1))) / 2 - float(min(relative, Fraction(1))) / 2


class GradedAnswer:
    """`graded_reward` as a reward function: of the number a completion ends with; 0 where it has none.

    Args:
        answer: Name of the column with the right answers.
    """

    def __init__(self, answer: str = "answer") -> None:
        self.answer = answer
        self.__name__ = "graded"

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Rewards of completions; None where the answer cannot be read."""
        return against_answers(completions, columns[self.answer], _graded)


def _graded(completion: str, right: Fraction) -> float:
    found = last_number(completion)
    return 0.0 if found is None else graded_reward(found, right)
