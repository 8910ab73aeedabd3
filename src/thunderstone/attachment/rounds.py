"""A training budget that is spent again from other weights: what methods see of it, and what a checkpoint holds."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from thunderstone.errors import StepError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from thunderstone.attachment.round_runner import RoundRunner


class Rounds:
    """The rounds of one fit. Owned by the method that declares ``exclusive = {"rounds"}``, and part of its state.

    Args:
        method: Class name of the owner, for messages.

    Attributes:
        index: Number of the round in progress, from 0.
        last: Number of the last round; None where the owner does not know, or has not said so. Only shown.
        columns: What stands beside every logged row of this round: ``round``, and what `annotate` was given.
    """

    def __init__(self, method: str) -> None:
        self.index = 0
        self.last: int | None = None
        self.columns: dict[str, float] = {}
        self._method = method
        self._runner: RoundRunner | None = None
        self._trainer: weakref.ref[Trainer] | None = None
        self._last: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        self._loaded: dict[str, Any] = {}

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Parameters and buffers that rounds begin from, by their names in the module's `state_dict`; on the CPU.

        Raises:
            StepError: No fit is running, or its optimizers are not set up yet.
        """
        return self._running().mark.weights

    def mark(self) -> None:
        """Let later rounds begin at this very place of the present one, instead of at its start (late rewinding).

        They begin with the module as it is now, at this place in the data, with schedules, counters, metrics and
        callbacks as they are now, and with a fresh optimizer. To be called in the first round, from the owner's
        `on_train_batch_end` or `on_train_epoch_end`; a later call replaces an earlier one.

        Raises:
            StepError: Called elsewhere.
            UnsupportedSettingError: The place in the data cannot be known: `ExactResume` is switched off.
        """
        self._running().set_mark()

    def annotate(self, **columns: float) -> None:
        """Put numbers beside every row that is logged from now on, as ``method/name`` (in `next_round`: beside those
        of the round to come). They stay until they are replaced; ``round`` is always there.

        Args:
            columns: Name → number, e.g. ``remaining=0.64``.
        """
        self.columns.update(columns)

    def _running(self) -> RoundRunner:
        if self._runner is None:
            raise StepError(
                f"{self._method}: rounds were used while no fit is running. HINT: use them from on_fit_start on"
            )
        return self._runner

    # -- life cycle, for the host --------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A fit is being prepared; a checkpoint may be loaded next."""
        self.index, self.columns, self._last, self._loaded = 0, {}, ({}, {}), {}
        self.last = None

    def run_by(self, runner: RoundRunner | None) -> None:
        """The strategy is set up (None: the fit is over)."""
        if runner is None and self._runner is not None:
            # A checkpoint may be written after the fit.
            self._last = self._runner.parts()
        if runner is not None:
            self._trainer = weakref.ref(runner.trainer)
        self._runner = runner

    def take_loaded(self) -> dict[str, Any]:
        """What a checkpoint held, once; empty where none was loaded."""
        loaded, self._loaded = self._loaded, {}
        return loaded

    def state_dict(self) -> dict[str, Any]:
        """The round, the weights it began from, and the random states of the first. To be called on every rank."""
        if self._loaded:
            return self._loaded
        from thunderstone.resume.ranks import gather_on_rank_zero

        shared, own = self._runner.parts() if self._runner is not None else self._last
        trainer = self._trainer() if self._trainer is not None else None
        ranks = gather_on_rank_zero(trainer, own) if trainer is not None else [own]
        return {"index": self.index, "columns": dict(self.columns), **shared, "ranks": ranks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the round in which a checkpoint was written."""
        if self._runner is None:
            self._loaded = state
        # Otherwise a learning rate finder puts back what it has saved in this very fit.
        self.index, self.columns = state["index"], dict(state["columns"])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_runner": None, "_trainer": None}


class Round:
    """A round that is used up; handed to `another_round` and `next_round`.

    Attributes:
        index: Its number, from 0.
        trainer: The running Trainer.
        module: The LightningModule, with the weights the round ended with.
        seed: Assign in `next_round` what the next round is seeded with. None: its random states, and so the order of
            its data, are those the first round began with. A number: those of ``seed_everything(number)``.
    """

    def __init__(self, runner: RoundRunner, index: int) -> None:
        self.index = index
        self.trainer: Trainer = runner.trainer
        self.module: LightningModule = runner.module
        self.seed: int | None = None
        self._runner = runner

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Parameters and buffers that the next round begins from, unless it is given others; on the CPU."""
        return self._runner.mark.weights

    def rewind(self) -> None:
        """In `next_round`: put weights, buffers and all other state of the module back to where rounds begin."""
        self._runner.mark.rewind(self.module)
