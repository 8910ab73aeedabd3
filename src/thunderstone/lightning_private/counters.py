"""How far a run has come, as Lightning counts it."""

from __future__ import annotations

import copy
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _BaseProgress


def logging_step(trainer: Trainer) -> int:
    """The step `self.log` writes at.

    Lightning counts the batches that stepped for its loggers, which differs from the public `global_step` in manual
    optimization; curves only line up when both use the same counter. What is logged at an epoch's end is written at
    its last step, although the counter has moved on: the epoch counts as processed and not yet as completed.
    """
    progress = epoch_counts(trainer)
    at_epoch_end = progress.processed > progress.completed
    return trainer.fit_loop.epoch_loop._batches_that_stepped - int(at_epoch_end)


def batch_index(trainer: Trainer) -> int:
    """Index within the epoch of the batch in training.

    `training_step` need not take `batch_idx`, and callbacks run too early to tell which batches reach it.
    """
    return trainer.fit_loop.epoch_loop.batch_idx


def epoch_counts(trainer: Trainer) -> Any:
    """How many epochs of this run are ready, started, processed and completed; `trainer.current_epoch` is the last."""
    return trainer.fit_loop.epoch_progress.current


def batch_counts(trainer: Trainer) -> Any:
    """The same for the batches of the present epoch."""
    return trainer.fit_loop.epoch_loop.batch_progress.current


def loop_progress(trainer: Trainer) -> dict[str, Any]:
    """Every counter of the fit loop and the loops inside it, as nested dicts of numbers.

    `fit_loop.state_dict()` would also ask every stateful loader for its state, which Lightning has just done.
    """
    return _progress_of(trainer.fit_loop)


def _progress_of(loop: _Loop) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, value in vars(loop).items():
        if isinstance(value, _BaseProgress):
            state[name] = value.state_dict()
        elif isinstance(value, _Loop):
            state[name] = _progress_of(value)
    return state


def load_loop_progress(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put every counter back and tell all loops that they are not restarting.

    Lightning guesses from the counters where a checkpoint was written and adjusts some of them. Its guesses lose the
    validation, the hooks and the scheduler steps that were still to come; here the place is known.
    """
    _load_progress(trainer.fit_loop, state)


def _load_progress(loop: _Loop, state: dict[str, Any]) -> None:
    for name, value in vars(loop).items():
        if isinstance(value, _BaseProgress) and name in state:
            value.load_state_dict(copy.deepcopy(state[name]))
        elif isinstance(value, _Loop):
            _load_progress(value, state.get(name, {}))
    loop._restarting = loop._loaded_from_state_dict = False
    loop._resuming_from_checkpoint = False
    loop.reset_restart_stage()


def take_back_processed_epoch(trainer: Trainer) -> None:
    """Count the epoch that is at its end as one under way."""
    progress: Any = trainer.fit_loop.epoch_progress
    for counts in (progress.current, progress.total):
        counts.processed = counts.completed


def take_back_batch(trainer: Trainer) -> None:
    """Count the batch under way as one that was not begun."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    for counts in (progress.current, progress.total):
        counts.reset_on_restart()
    progress.is_last_batch = False


def steps_for_loggers(trainer: Trainer) -> int:
    """How many batches have stepped, as the loggers count; Lightning adjusts its saved value by a guess."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def set_steps_for_loggers(trainer: Trainer, steps: int) -> None:
    """See `steps_for_loggers`."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = steps


def reload_epochs(trainer: Trainer) -> tuple[int | None, int | None]:
    """The epochs in which the training and validation loaders were asked for; `reload_dataloaders_every_n_epochs`
    counts from them. None where that has not happened yet."""
    epochs = (
        trainer.fit_loop._last_train_dl_reload_epoch,
        trainer.fit_loop.epoch_loop.val_loop._last_val_dl_reload_epoch,
    )
    train, validation = (None if epoch == float("-inf") else int(epoch) for epoch in epochs)
    return train, validation


def set_validation_reload_epoch(trainer: Trainer, epoch: int | None) -> None:
    """See `reload_epochs`."""
    trainer.fit_loop.epoch_loop.val_loop._last_val_dl_reload_epoch = float("-inf") if epoch is None else epoch
