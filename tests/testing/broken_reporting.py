"""Methods that break rule 9: each reports in a way of its own."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from sound_method import Sound


class ReportsUnderNoName(Sound):
    """Logs through the module, under a name that could be anybody's.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        pl_module.log("gradient_norm", self.average)


class ReportsAtItsOwnStep(Sound):
    """Counts steps in its own way.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.logger is not None:
            trainer.logger.log_metrics({"sound/average": self.average}, step=100 + trainer.global_step)


class ReportsOnEveryRank(ReportsAtItsOwnStep):
    """Writes to the logger itself, from wherever it runs.

    Args:
        gain: As in `Sound`.
    """


class Mute(Sound):
    """Reports nothing.

    Args:
        gain: As in `Sound`.
    """

    def record(self, name: str, value: Any) -> None:
        pass
