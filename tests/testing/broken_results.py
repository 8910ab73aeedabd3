"""Methods that break rules 1 to 4: what a run ends with, and whether it can be resumed."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from sound_method import Sound

from thunderstone import GradientStep, Method, hookimpl


class DrawsWhenOff(Sound):
    """Draws a random number also when it is switched off.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_start(self, *_: Any) -> None:
        torch.rand(1)


class NoEffect(Method):
    """Does nothing."""

    name: ClassVar[str] = "noeffect"


class Diverges(Sound):
    """Divides gradients by zero.

    Args:
        gain: As in `Sound`.
    """

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        step.gradients = [None if g is None else g / 0 for g in step.gradients]


class Forgets(Sound):
    """Does not keep its average in the checkpoint.

    Args:
        gain: As in `Sound`.
    """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class LosesCount(Method):
    """Doubles every second update's gradient, and counts them anew after a resume."""

    name: ClassVar[str] = "loses_count"

    def __init__(self) -> None:
        self._updates = 0

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._updates = 0

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        self._updates += 1
        if self._updates % 2:
            step.gradients = [None if g is None else g * 2 for g in step.gradients]


class Average:
    """A class only this package has."""

    def __init__(self, value: float) -> None:
        self.value = value


class Pickles(Sound):
    """Keeps an object of its own class in the checkpoint.

    Args:
        gain: As in `Sound`.
    """

    def state_dict(self) -> dict[str, Any]:
        return {"average": Average(self.average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average = state_dict["average"].value


class Renames(Sound):
    """Renames the module's parameters in the checkpoint.

    Args:
        gain: As in `Sound`.
    """

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {f"wrapped.{name}": value for name, value in checkpoint["state_dict"].items()}
