"""How long all rounds of a training will take."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Trainer


def share_done(trainer: Trainer) -> float:
    """How much of the present training budget is used up at the end of a batch, 0 to 1; NaN where its size is unknown.

    With a limit of epochs and one of updates, what is nearer its end counts.
    """
    shares = []
    epochs: Any = trainer.max_epochs
    batches = trainer.num_training_batches
    if epochs is not None and epochs > 0 and 0 < batches < math.inf:
        shares.append((trainer.fit_loop.total_batch_idx + 1) / (epochs * batches))
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    return min(1.0, max(shares)) if shares else math.nan


class TimeLeft:
    """Extrapolates: this round at its own pace so far, those to come as long as the last whole one took."""

    def __init__(self) -> None:
        self._round: int | None = None
        self._began, self._begun_at = 0.0, 0.0
        self._last: float | None = None

    def seconds(self, round: int, last: int, share: float, now: float) -> float | None:
        """Seconds to the end of the last round; None as long as nothing can be said.

        Args:
            round: Number of the round in progress.
            last: Number of the last one.
            share: How much of this round is done; see `share_done`.
            now: The time, in seconds, of a clock that does not go back.
        """
        if round != self._round:
            # The first round that is seen may have been entered in its middle, by a resume.
            self._last = now - self._began if self._round is not None and self._begun_at < 0.5 else None
            self._round, self._began, self._begun_at = round, now, share
            return None
        if not share > self._begun_at:
            return None
        whole = (now - self._began) / (share - self._begun_at)
        rounds = max(0, last - round)
        return (1 - share) * whole + rounds * (self._last if self._last is not None else whole)


def written(seconds: float) -> str:
    """``1:23``, or ``2:01:23``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
