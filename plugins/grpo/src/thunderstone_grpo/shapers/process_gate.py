"""A process reward that counts only where the outcome is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.errors import suggestion
from thunderstone_grpo.completions import ScoredCompletions


@dataclass(frozen=True)
class ProcessGate:
    """`process_gate` as a strategy: it replaces the sum of the rewards by the gated one, so it comes first.

    Args:
        outcome: Name of the reward function that says 1 for right and 0 for wrong.
        process: Name of the one that judges how the answer was reached.
        format: Name of the one that judges the form; None for none.
    """

    outcome: str = "outcome"
    process: str = "process"
    format: str | None = None
    stage: ClassVar[str] = "rewards"
    affine: ClassVar[bool] = False
    replaces: ClassVar[bool] = True

    def __call__(self, values: Tensor, completions: ScoredCompletions) -> Tensor:
        """Gated rewards (N,); what `values` were does not enter."""
        form = None if self.format is None else self._part("format", self.format, completions)
        outcome = self._part("outcome", self.outcome, completions)
        return process_gate(outcome, self._part("process", self.process, completions), form).to(values.dtype)

    def _part(self, argument: str, name: str, completions: ScoredCompletions) -> Tensor:
        if name not in completions.parts:
            reason = "no reward function has this name"
            raise ArgumentError(type(self).__name__, argument, name, reason, suggestion(name, completions.parts))
        return completions.parts[name]


def process_gate(outcome: Tensor, process: Tensor, format: Tensor | None = None) -> Tensor:
    """``R_format + R_outcome + R_outcome · R_process`` (P-GRPO: Fan et al. 2025, Posterior-GRPO).

    A fluent way to a wrong answer earns nothing, so there is nothing to hack.

    Args:
        outcome: (N,), 0 where wrong.
        process: (N,). Where the outcome is 0 it may be NaN (not scored).
        format: (N,), or None.

    Returns:
        (N,); NaN where a part that is needed is.
    """
    gated = torch.where(outcome == 0, 0.0, outcome * process)
    return outcome + gated + (0.0 if format is None else format)
