"""What reward functions said, and where they failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

KINDS = ("exception", "length", "type", "not_finite", "timeout", "crash")


@dataclass(frozen=True)
class Failure:
    """A function that gave no reward for some completions.

    Attributes:
        function: Its name.
        kind: ``"exception"``, ``"length"`` (not one reward a completion), ``"type"`` (not a number), ``"not_finite"``,
            ``"timeout"`` or ``"crash"`` (its process ended).
        rows: Which completions have no reward because of it.
        message: What happened, in a line.
    """

    function: str
    kind: str
    rows: tuple[int, ...]
    message: str


@dataclass(frozen=True)
class Scores:
    """Rewards of N completions.

    Attributes:
        total: (N,) float64, the weighted sum over functions; NaN where unscorable. A function that says None leaves
            its part out of the sum; a completion is unscorable where all say None, or where one fails: a missing part
            would count as a reward of 0.
        parts: The rewards of each function by its name, (N,) float64, without weight; NaN where it gave none.
        failures: What went wrong.
        metrics: Means of what functions gave ``log_metric``.
        extra: What functions gave ``log_extra``, a list a column.
    """

    total: Tensor
    parts: Mapping[str, Tensor]
    failures: tuple[Failure, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def unscorable(self) -> int:
        """How many completions have no reward."""
        return int(self.total.isnan().sum())

    def summary(self) -> dict[str, int]:
        """Completions a function failed on, by kind of failure; kinds that did not happen are left out."""
        counts: Counter[str] = Counter()
        for failure in self.failures:
            counts[failure.kind] += len(failure.rows)
        return dict(counts)


def weighted_total(parts: Mapping[str, Tensor], weights: Sequence[float], failed: Tensor) -> Tensor:
    """The sum over functions of what they gave; NaN where none gave anything or one failed (N, bool)."""
    stacked = torch.stack(list(parts.values()))
    scale = torch.tensor(list(weights), dtype=torch.float64).unsqueeze(1)
    total = (stacked * scale).nansum(0)
    return torch.where(stacked.isnan().all(0) | failed, torch.nan, total)
