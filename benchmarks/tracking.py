"""What tracking costs a training: W&B offline at default settings, with a figure and a table every epoch.

    python benchmarks/tracking.py                 the demo's network with SAM
    python benchmarks/tracking.py --write         and put the tables into RESULTS.md

The same training, with the same methods reporting the same things, is done three times: with what they report thrown
away, without a logger (it goes to files in a folder), and with a WandbLogger in offline mode. Starting and finishing a
run of W&B does not count: it is once a run, however long that is.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import numpy as np
import torch
import training_runs  # noqa: F401 - it keeps Lightning quiet
import wandb
from lightning.pytorch.loggers import WandbLogger
from matplotlib.figure import Figure
from side_by_side import Line, arguments, interleaved, median, paired, report, verdict, with_interval
from torch.utils.data import DataLoader, TensorDataset

from thunderstone import Method, Table
from thunderstone.demo.digits import Digits, noisy_digits
from thunderstone.demo.network import DigitsNetwork
from thunderstone.demo.training import BATCH
from thunderstone.tracking.tracker import Tracker
from thunderstone_sharpness import SAM

warnings.filterwarnings("ignore", message=".*but have no `val_dataloader`")
warnings.filterwarnings("ignore", message=".*smaller than the logging interval")

EPOCHS = 20
LIMIT = 1.01
NOTHING, FOLDER, WANDB = "nothing is written", "no logger: files in a folder", "W&B, offline"


class Epochly(Method):
    """Reports a table and a figure of the weights' norms every epoch."""

    name = "epochly"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        norms = [(name, float(weight.detach().norm())) for name, weight in pl_module.named_parameters()]
        self.record("norms", Table(["parameter", "norm"], norms))
        figure = Figure(figsize=(5, 3))
        figure.subplots().bar(range(len(norms)), [norm for _, norm in norms])
        self.record("norms_figure", figure)


class Clock(pl.Callback):
    """Wall-clock and processor seconds from the start of a step to that of the next, and of all epochs together.

    Not from its start to its end: what a step reported is written before the next one begins.
    """

    def __init__(self) -> None:
        self.steps: list[np.ndarray[Any, Any]] = []
        self.total = np.zeros(2)

    def on_train_start(self, *_: Any) -> None:
        self._began = self._now()

    def on_train_epoch_start(self, *_: Any) -> None:
        self._before: np.ndarray[Any, Any] | None = None

    def on_train_batch_start(self, *_: Any) -> None:
        now = self._now()
        if self._before is not None:
            self.steps.append(now - self._before)
        self._before = now

    def on_train_end(self, *_: Any) -> None:
        self.total = self._now() - self._began

    @staticmethod
    def _now() -> np.ndarray[Any, Any]:
        return np.array([time.perf_counter(), time.process_time()])


@contextmanager
def nothing_written() -> Iterator[None]:
    """The tracker has no place to write to."""
    with patch.object(Tracker, "_find_sinks", lambda self: []):
        yield


def train(variant: str, digits: Digits) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Wall-clock and processor seconds of a step (the mean), and of a step's share of everything between the first and
    the last."""
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(digits.images, digits.labels), BATCH, shuffle=True)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, nothing_written() if variant == NOTHING else nullcontext():
        logger = WandbLogger(offline=True, save_dir=folder, settings=_quiet()) if variant == WANDB else False
        trainer = pl.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            devices=1,
            max_epochs=EPOCHS,
            callbacks=[clock, SAM(rho=0.05), Epochly()],
            logger=logger,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(DigitsNetwork(), loader)
        if variant == WANDB:
            wandb.finish()
    return np.mean(clock.steps, axis=0), clock.total / (EPOCHS * len(loader))


def _quiet() -> wandb.Settings:
    return wandb.Settings(silent=True, console="off", mode="offline")


def main() -> None:
    options = arguments(__doc__, rounds=15)
    torch.set_num_threads(1)
    wandb.setup(_quiet())
    digits = noisy_digits(seed=0)
    measured: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in (NOTHING, FOLDER, WANDB)}

    def measure(name: str) -> float:
        measured[name].append(np.array(train(name, digits)))
        return float(measured[name][-1][0, 0])

    interleaved({name: partial(measure, name) for name in measured}, options.rounds)

    def values(name: str, whole: int, kind: int) -> list[float]:
        """Of each round but the one that does not count. Kind: 0 for wall-clock time, 1 for that of the processor."""
        return [float(each[whole, kind]) for each in measured[name][1:]]

    for whole, title in enumerate(("Tracking: a step", "Tracking: all of a training, by the step")):
        lines = []
        for name in measured:
            taken = values(name, whole, 0)
            wall = paired(taken, values(NOTHING, whole, 0))
            used = paired(values(name, whole, 1), values(NOTHING, whole, 1))
            ratios = (with_interval(used, ".4f"), with_interval(wall, ".4f"), verdict(wall, LIMIT))
            shown = ("", "", "") if name == NOTHING else ratios
            beside = with_interval(paired(taken, values(FOLDER, whole, 0)), ".4f") if name == WANDB else ""
            lines.append(Line(name, (median(taken, ".2f", "ms", 1e3), *shown, beside)))
        counted = (
            "Everything between the first step and the last is shared out among the steps: the ends of epochs, where a "
            "figure and a table are written"
            if whole
            else "From the start of a step to the start of the next in the same epoch, the mean over the training"
        )
        report(
            title,
            ("What is reported", "Wall-clock time", "Ratio, processor time", "Ratio", "Limit", "Ratio to no logger"),
            lines,
            f"The demo's network with SAM on batches of {BATCH} images, {EPOCHS} epochs, one thread, Lightning's and "
            f"W&B's default settings. {counted}. W&B's own process is seen in wall-clock time alone; {options.rounds} "
            "interleaved rounds, medians and 95% bootstrap intervals of paired ratios.",
            options.write,
        )


if __name__ == "__main__":
    main()
