"""Methods that break rules 4 and 5 where training pauses to validate, with other weights than are trained."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from sound_method import Sound
from torch import Tensor


class StandsInUntilTheEnd(Sound):
    """Validates with shifted weights, which it takes back only at the end of a validation that succeeds.

    Args:
        gain: As in `Sound`.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._shift(pl_module, 0.01)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._shift(pl_module, -0.01)

    def _shift(self, module: LightningModule, amount: float) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(amount)


class StandsInTooLong(StandsInUntilTheEnd):
    """Takes them back when training goes on, by when the checkpoint of this validation has been written.

    Args:
        gain: As in `Sound`.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        return None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._shift(pl_module, -0.01)


class ForgetsWhatItValidatesWith(Sound):
    """Validates with the mean of all weights so far, which is in no checkpoint; training goes on as it was.

    Args:
        gain: As in `Sound`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches = 0
        self._sums = [torch.zeros_like(parameter) for parameter in pl_module.parameters()]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._batches += 1
        for total, parameter in zip(self._sums, pl_module.parameters(), strict=True):
            total += parameter.detach()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._own = [parameter.detach().clone() for parameter in pl_module.parameters()]
        self._put(pl_module, [total / self._batches for total in self._sums])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._put(pl_module, self._own)

    def _put(self, module: LightningModule, values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(module.parameters(), values, strict=True):
                parameter.copy_(value)
