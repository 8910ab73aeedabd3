"""Methods that break rules 7 and 8: each fails in one setting, or beside another method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from sound_method import Sound

from thunderstone import GradientStep, Method, hookimpl
from thunderstone.errors import CompositionError


class BreaksUnder(Sound):
    """Fails in one setting of the Trainer, obscurely.

    Args:
        setting: Which one.
        gain: As in `Sound`.
    """

    def __init__(self, setting: str = "bf16-mixed", gain: float = 0.5) -> None:
        super().__init__(gain)
        self.setting = setting

    def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
        found: Mapping[str, Any] = {
            "bf16-mixed": trainer.precision == "bf16-mixed",
            "16-mixed": trainer.precision == "16-mixed",
            "64-true": trainer.precision == "64-true",
            "accumulation": trainer.accumulate_grad_batches > 1,
            "fast_dev_run": trainer.fast_dev_run,
            "compile": getattr(pl_module, "_compiler_ctx", None) is not None,
            "no logger": trainer.logger is None,
            "ddp": trainer.world_size > 1,
        }
        if found[self.setting]:
            raise IndexError("list index out of range")


class CastsToSinglePrecision(Sound):
    """Assumes that weights are float32.

    Args:
        gain: As in `Sound`.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.float()


class EvadesClipping(Sound):
    """Scales gradients behind clipping's back.

    Args:
        gain: As in `Sound`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._handles = [optimizer.register_step_pre_hook(_enlarge) for optimizer in trainer.optimizers]

    def on_detach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for handle in self._handles:
            handle.remove()


def _enlarge(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.mul_(100.0)


class MovesFrozenWeights(Sound):
    """Adds to every parameter, trainable or not.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.mul_(0.999)


class ActsWhileValidating(Sound):
    """Shrinks weights whenever validation begins, also in the sanity check and in `trainer.validate`.

    Args:
        gain: As in `Sound`.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.mul_(0.99)


class WearsOut(Sound):
    """Counts updates over all fits and stops acting.

    Args:
        gain: As in `Sound`.
    """

    _updates = 0

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        self._updates += 1
        if self._updates < 10:
            super().transform_gradients(step=step)


class Stalls(Sound):
    """Trains in its first fit only.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch > 0 and trainer.logger is None:
            for parameter in pl_module.parameters():
                parameter.requires_grad_(False)
            next(pl_module.parameters()).requires_grad_(True)

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        super().transform_gradients(step=step)
        if len(step.parameters) == 1:
            step.gradients = [None]


class DrawsPerRank(Sound):
    """Adds noise that differs between replicas.

    Args:
        gain: As in `Sound`.
    """

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        super().transform_gradients(step=step)
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        step.gradients = [None if g is None else g + 0.01 * rank for g in step.gradients]


class WantsToBeAlone(Sound):
    """Fails obscurely beside another method.

    Args:
        gain: As in `Sound`.
    """

    def on_attach(self, trainer: Any, pl_module: LightningModule) -> None:
        super().on_attach(trainer, pl_module)
        others = [c for c in trainer.callbacks if isinstance(c, Method) and c is not self and c.arguments.get("rho")]
        if others:
            raise KeyError("rho")


class RefusesNamelessly(Sound):
    """Refuses another method without saying which.

    Args:
        gain: As in `Sound`.
    """

    def on_attach(self, trainer: Any, pl_module: LightningModule) -> None:
        super().on_attach(trainer, pl_module)
        others = [c for c in trainer.callbacks if isinstance(c, Method) and c is not self and c.arguments.get("rho")]
        if others:
            raise CompositionError("gradient", type(self).__name__, "something else", "leave it out")
