"""Methods that break rule 6: each has something counted twice, or not at all."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from sound_method import Sound

from thunderstone import GradientStep, hookimpl


class CallsTheUsersHook(Sound):
    """Calls a hook of the module once more.

    Args:
        gain: As in `Sound`.
    """

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        super().transform_gradients(step=step)
        step.module.on_after_backward()


class NaiveSecondPass(Sound):
    """Goes through the batch again as if nobody watched.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = (batch, batch_idx)

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        super().transform_gradients(step=step)
        module: Any = step.module
        module._current_fx_name, name = "training_step", module._current_fx_name
        module.training_step(*self._batch)
        module._current_fx_name = name


class LogsTwice(NaiveSecondPass):
    """Keeps the second pass from the loggers, but not from the sums over an epoch.

    Args:
        gain: As in `Sound`.
    """

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        trainer: Any = step.module.trainer
        loggers, trainer.loggers = trainer.loggers, []
        try:
            super().transform_gradients(step=step)
        finally:
            trainer.loggers = loggers


class SilentSecondPass(NaiveSecondPass):
    """Goes through the batch again without logging, but with everything else.

    Args:
        gain: As in `Sound`.
    """

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        module: Any = step.module
        module.log = module.log_dict = _watch_keywords
        try:
            super().transform_gradients(step=step)
        finally:
            del module.log, module.log_dict


def _watch_keywords(*_: Any, **__: Any) -> None:
    return None


class StopsEarly(Sound):
    """Ends training before its time.

    Args:
        gain: As in `Sound`.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True
