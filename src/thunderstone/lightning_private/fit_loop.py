"""The fit loop: its run, and the ends of its batches and epochs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException


def profiled(trainer: Trainer, action: str) -> AbstractContextManager[Any]:
    """The Trainer's profiler around an action; the attribute is declared nowhere."""
    profiler: Any = trainer.profiler  # type: ignore[attr-defined]
    context: AbstractContextManager[Any] = profiler.profile(action)
    return context


def replace_run(trainer: Trainer, run: Callable[[], None]) -> Callable[[], None]:
    """Let the fit loop's next run be another function. Returns the function that undoes it."""
    vars(trainer.fit_loop)["run"] = run
    return lambda: vars(trainer.fit_loop).pop("run", None)


def finish_batch(trainer: Trainer) -> None:
    """What Lightning does with a batch after the hooks at its end."""
    trainer._logger_connector.on_batch_end()
    trainer.fit_loop.epoch_loop.batch_progress.increment_completed()
    trainer._logger_connector.update_train_step_metrics()


def finish_validated_batch(trainer: Trainer) -> None:
    """What Lightning does with a batch after the validation that followed it."""
    epoch_loop = trainer.fit_loop.epoch_loop
    epoch_loop.update_lr_schedulers("step", update_plateau_schedulers=True)
    if not epoch_loop._should_accumulate():
        epoch_loop._batches_that_stepped += 1
    epoch_loop._save_loggers_on_train_batch_end()
    if not epoch_loop._is_training_done and trainer.received_sigterm:
        raise SIGTERMException


def finish_epoch(trainer: Trainer) -> None:
    """What Lightning does with a training epoch after the hooks at its end."""
    fit_loop, connector = trainer.fit_loop, trainer._logger_connector
    connector.on_epoch_end()
    if fit_loop.epoch_loop._num_ready_batches_reached():
        fit_loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
    fit_loop.epoch_loop._batches_that_stepped -= 1
    connector.update_train_epoch_metrics()
    fit_loop.epoch_loop._batches_that_stepped += 1
    fit_loop.epoch_progress.increment_completed()
    if trainer.received_sigterm:
        raise SIGTERMException


def skips_backward(trainer: Trainer) -> bool:
    """Whether the present epoch goes forward only, as the last one of StochasticWeightAveraging does.

    Nothing public says so, and at its end the optimizer's closure is called as in any other epoch.
    """
    return trainer.fit_loop._skip_backward


def within_accumulation(trainer: Trainer) -> bool:
    """Whether the last batch's gradients wait for more batches before the optimizer steps."""
    return trainer.fit_loop._should_accumulate()


def end_fit(trainer: Trainer) -> None:
    """The end of the fit loop's run."""
    trainer.fit_loop._restarting = False
    trainer.fit_loop.on_run_end()
