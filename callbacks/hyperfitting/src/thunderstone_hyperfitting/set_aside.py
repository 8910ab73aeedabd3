"""Callbacks that end a run, or choose its weights, by a metric of the validation: out of action for a while."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

_OF_TRAINING = re.compile(r"train|^loss", re.IGNORECASE)
_CHECKS = ("on_train_epoch_end", "on_validation_end")


def watches_training(monitor: str) -> bool:
    """Whether a metric's name says that it is measured in training: it contains "train" or begins with "loss"."""
    return bool(_OF_TRAINING.search(monitor))


class SetAside:
    """Keeps EarlyStopping from stopping, and ModelCheckpoint from choosing, where they watch a validation metric.

    Both stay in the Trainer's list, with their state in every checkpoint. A checkpoint callback goes on saving when it
    would, the latest weights instead of the best; `save_last` makes sure of the very last.

    Args:
        callbacks: The Trainer's.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.names: list[str] = []
        self._checkpoints: list[ModelCheckpoint] = []
        self._undo: list[Callable[[], object]] = []
        for callback in callbacks:
            monitor = getattr(callback, "monitor", None)
            if not isinstance(monitor, str) or watches_training(monitor):
                continue
            if isinstance(callback, EarlyStopping):
                self._silence(callback)
            elif isinstance(callback, ModelCheckpoint):
                self._unbind(callback)
            else:
                continue
            self.names.append(f"{type(callback).__name__}(monitor={monitor!r})")

    def _silence(self, callback: EarlyStopping) -> None:
        def nothing(*_: Any) -> None:
            """Stands in for a check that would stop the run."""

        for name in _CHECKS:
            vars(callback)[name] = nothing
            self._undo.append(lambda name=name: vars(callback).pop(name, None))  # type: ignore[misc]

    def _unbind(self, callback: ModelCheckpoint) -> None:
        own = {"monitor": callback.monitor, "save_top_k": callback.save_top_k}
        callback.monitor = None
        # Without a metric Lightning knows all (-1), none (0) and the latest (1).
        callback.save_top_k = min(callback.save_top_k, 1)
        self._undo.append(lambda: vars(callback).update(own))
        if callback.save_top_k:
            self._checkpoints.append(callback)

    def save_last(self, trainer: Trainer) -> None:
        """Have each checkpoint callback end with the run's last weights as its best; call it in `on_train_end`."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        metrics: dict[str, Any] = {
            **trainer.callback_metrics,
            "epoch": torch.tensor(max(trainer.current_epoch - 1, 0)),
            "step": torch.tensor(trainer.global_step),
        }
        for callback in self._checkpoints:
            path, former = callback.format_checkpoint_name(metrics), callback.best_model_path
            tells_steps_apart = callback.filename is None or "{step" in callback.filename
            if path == former and tells_steps_apart:
                continue
            trainer.save_checkpoint(path, callback.save_weights_only)
            callback.best_model_path = path
            if callback.save_last is True:
                last = callback.format_checkpoint_name(metrics, callback.CHECKPOINT_NAME_LAST)
                trainer.save_checkpoint(last, callback.save_weights_only)
                callback.last_model_path = last
            if former and former != path and callback.save_top_k == 1:
                trainer.strategy.remove_checkpoint(former)

    def release(self) -> None:
        """Put every callback back as it was."""
        while self._undo:
            self._undo.pop()()
