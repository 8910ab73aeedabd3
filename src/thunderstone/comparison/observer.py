"""What sits in every run of a comparison and writes down what the script logs."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from thunderstone.cli import seeding
from thunderstone.cli.factory import RUN
from thunderstone.lightning_private import logging_step
from thunderstone.tracking.folder import FolderSink
from thunderstone.tracking.run_record import write_json
from thunderstone.tracking.scalars import is_scalar, read

OUTCOME = "outcome.json"


class Outcome:
    """What the Trainers of one process have come to; a script may build several, and the last value of a name counts.

    Args:
        folder: The run's folder. `outcome.json` and `scalars.csv` are written to it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics: dict[str, float] = {}
        self.fit_seconds: float | None = None
        self.passes: int | None = None
        self.steps: int | None = None
        self.fits: list[dict[str, float]] = []
        self.curves = FolderSink(lambda: folder, "the run's folder")

    def write(self) -> None:
        """Write `outcome.json` anew."""
        content = {
            "metrics": self.metrics,
            "fit_seconds": self.fit_seconds,
            "passes": self.passes,
            "steps": self.steps,
            "fits": self.fits,
            "seeds_overridden": seeding.overridden,
        }
        write_json(self.folder / OUTCOME, content)


class Observer(Callback):
    """Keeps the metrics of one Trainer, and counts its passes and its time. It changes nothing in the training.

    Args:
        outcome: Where they go.
    """

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._began: float | None = None
        self._passes = 0
        self._epoch = 0
        self._before: dict[str, float] = {}  # when validation began
        self._drawn: set[str] = set()  # since the epoch began
        self._validated: set[str] = set()

    # -- time and passes -----------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.perf_counter()
        # Every backward goes through the precision plug-in: Lightning's own, manual ones, and second passes of methods.
        plugin = trainer.precision_plugin
        if "backward" not in vars(plugin):
            original = plugin.backward

            def backward(*arguments: Any, **options: Any) -> Any:
                self._passes += 1
                return original(*arguments, **options)

            plugin.backward = backward  # type: ignore[method-assign]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._began is not None:
            self._outcome.fit_seconds = (self._outcome.fit_seconds or 0.0) + time.perf_counter() - self._began
            self._began = None
        self._outcome.passes = (self._outcome.passes or 0) + self._passes
        self._outcome.steps = (self._outcome.steps or 0) + trainer.global_step
        self._passes = 0

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._let_go(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._let_go(trainer)
        values = self._keep(trainer)
        if stage == "fit":
            self._outcome.fits.append(values)
        if trainer.is_global_zero:
            self._outcome.write()

    @staticmethod
    def _let_go(trainer: Trainer) -> None:
        vars(trainer.precision_plugin).pop("backward", None)

    # -- metrics -------------------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before = _values(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        values = self._keep(trainer)
        if trainer.state.fn == "fit":
            # Among the callback metrics are those of training: of the epoch before, or of the last step.
            self._validated.update(key for key in values if not _same(values[key], self._before.get(key)))
            self._draw(trainer, {key: values[key] for key in self._validated & values.keys()}, logging_step(trainer))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # What the epoch before ended with: metrics of its end are only complete after every hook of that end.
        if trainer.current_epoch > 0:
            self._end_epoch(trainer)
        self._epoch = trainer.current_epoch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_epoch(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(trainer)

    def _end_epoch(self, trainer: Trainer) -> None:
        values = self._keep(trainer)
        rest = {key: value for key, value in values.items() if key not in self._drawn}
        self._draw(trainer, rest, max(0, logging_step(trainer) - 1))
        self._drawn.clear()

    def _keep(self, trainer: Trainer) -> dict[str, float]:
        """The callback metrics, which from now on are the outcome's."""
        values = _values(trainer)
        self._outcome.metrics.update(values)
        return values

    def _draw(self, trainer: Trainer, values: dict[str, float], step: int) -> None:
        self._drawn.update(values)
        if values and trainer.is_global_zero:
            self._outcome.curves.scalars(dict(sorted(values.items())), step, self._epoch)


def _values(trainer: Trainer) -> dict[str, float]:
    return {key: float(read(value)) for key, value in trainer.callback_metrics.items() if is_scalar(value)}


def _same(one: float, other: float | None) -> bool:
    return other is not None and (one == other or (math.isnan(one) and math.isnan(other)))


_outcome: Outcome | None = None


def observer() -> Observer:
    """The observer of a new Trainer of this process, for the run whose folder ``THUNDERSTONE_RUN`` names."""
    global _outcome
    folder = Path(os.environ[RUN])
    if _outcome is None or _outcome.folder != folder:
        _outcome = Outcome(folder)
    return Observer(_outcome)
