"""Methods that break rule 5: each leaves something behind."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from broken_results import NoEffect
from lightning.pytorch import LightningModule, Trainer
from sound_method import Sound
from torch import Tensor, nn

from thunderstone import GradientStep, UpdatePlan, hookimpl


class LeavesAHook(Sound):
    """Hooks a layer and never takes the hook off.

    Args:
        gain: As in `Sound`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        next(iter(pl_module.children())).register_forward_hook(_watch)


def _watch(*_: Any) -> None:
    return None


class LeavesAPatch(Sound):
    """Replaces the module's training_step on the instance and leaves it there.

    Args:
        gain: As in `Sound`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        original = pl_module.training_step
        pl_module.training_step = lambda batch, batch_idx: original(batch, batch_idx)


class PatchesTorch(Sound):
    """Replaces a function of torch for good.

    Args:
        gain: As in `Sound`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        original = nn.Linear.forward
        nn.Linear.forward = lambda self, input: original(self, input)


class TurnsOnDeterminism(Sound):
    """Changes a setting of the process and leaves it changed.

    Args:
        gain: As in `Sound`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.use_deterministic_algorithms(True)


class AddsACallback(Sound):
    """Adds to the Trainer's callbacks and does not take it out again.

    Args:
        gain: As in `Sound`.
    """

    def on_train_end(self, trainer: Any, pl_module: LightningModule) -> None:
        trainer.callbacks = [*trainer.callbacks, NoEffect()]


class PerturbsDuringTheStep(Sound):
    """Trains at perturbed weights, and puts them back only at the end of a batch that succeeds.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._shift(pl_module, 0.01)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._shift(pl_module, -0.01)

    def _shift(self, module: LightningModule, amount: float) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(amount)


class CleansUpAfterErrorsOnly(PerturbsDuringTheStep):
    """Puts weights back after an exception, but not after Ctrl-C.

    Args:
        gain: As in `Sound`.
    """

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        if isinstance(exception, Exception):
            self._shift(pl_module, -0.01)


class SecondPass(Sound):
    """Takes its gradients at shifted weights; leaves them shifted when that fails.

    Args:
        gain: As in `Sound`.
    """

    caught: ClassVar[type[BaseException] | tuple[()]] = ()

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        plan.request_recompute()

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        saved = [parameter.detach().clone() for parameter in step.parameters]
        self._set(step, [parameter + 0.01 for parameter in saved])
        try:
            gradients = step.recompute()
        except self.caught:
            self._set(step, saved)
            raise
        self._set(step, saved)
        step.gradients = gradients

    def _set(self, step: GradientStep, values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(step.parameters, values, strict=True):
                parameter.copy_(value)


class SecondPassCatchesErrorsOnly(SecondPass):
    """Puts weights back after an exception in the second pass, but not after Ctrl-C.

    Args:
        gain: As in `Sound`.
    """

    caught: ClassVar[type[BaseException] | tuple[()]] = Exception
