"""What tracking costs a training: W&B offline at default settings, with a figure and a table every epoch.

    python benchmarks/tracking.py                 the demo's network with SAM
    python benchmarks/tracking.py --write         and put the tables into RESULTS.md

The same training, with the same methods reporting the same things, is done four times: with what they report thrown
away, without a logger (it goes to files in a folder), with a WandbLogger in offline mode, and with what they report
thrown away while a callback logs as much by hand: `self.log` in every step, `log_table` and `log_image` every epoch.
Starting and finishing a run of W&B does not count: it is once a run, however long that is.

A step's ratio says what a user would notice. It is also measured how long this process is inside of the tracking, since
the ratio's interval is wider than what there is to see.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from thunderstone import Method, Table
from thunderstone.attachment.attachment import Attachment
from thunderstone.demo.digits import Digits, noisy_digits
from thunderstone.demo.network import DigitsNetwork
from thunderstone.demo.training import BATCH
from thunderstone.tracking.tracker import Tracker
from thunderstone_sharpness import SAM

warnings.filterwarnings("ignore", message=".*but have no `val_dataloader`")

EPOCHS, STEPS = 2, 150
LIMIT = 1.01
NOTHING, FOLDER, WANDB = "nothing is written", "no logger: files in a folder", "W&B, offline"
BY_HAND = "W&B, offline, by hand"


def norms(module: pl.LightningModule) -> tuple[Table, Figure]:
    """What is reported every epoch: the weights' norms, as a table and as a figure."""
    rows = [(name, float(weight.detach().norm())) for name, weight in module.named_parameters()]
    figure = Figure(figsize=(5, 3))
    figure.subplots().bar(range(len(rows)), [norm for _, norm in rows])
    return Table(["parameter", "norm"], rows), figure


class Epochly(Method):
    """Reports it."""

    name = "epochly"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        table, figure = norms(pl_module)
        self.record("norms", table)
        self.record("norms_figure", figure)


class ByHand(pl.Callback):
    """Logs as much as SAM and `Epochly` report, in the way of somebody who has no tracker."""

    def __init__(self, inside: Inside) -> None:
        self.inside = inside
        self.value = torch.tensor(1.0)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        with self.inside.of("step"):
            pl_module.log("gradient_norm", self.value)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        table, figure = norms(pl_module)
        logger: Any = trainer.logger
        with self.inside.of("table"):
            logger.log_table("norms", columns=list(table.columns), data=[list(row) for row in table.rows])
        with self.inside.of("figure"):
            logger.log_image("norms_figure", images=[figure])


class Inside:
    """Seconds that the main thread spends inside of the tracking, by what for."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._within = False

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        began, outermost, self._within = time.perf_counter(), not self._within, True
        try:
            yield
        finally:
            if outermost:
                self.seconds[what] += time.perf_counter() - began
                self._within = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Around everything that a method reports, and around what is written of it later."""
        record, flush = Attachment.record, Tracker.flush

        def watched_record(attachment: Attachment, method: Method, name: str, value: Any) -> None:
            what = "table" if isinstance(value, Table) else "figure" if isinstance(value, Figure) else "step"
            with self.of(what):
                record(attachment, method, name, value)

        def watched_flush(tracker: Tracker) -> None:
            with self.of("step"):
                flush(tracker)

        with patch.object(Attachment, "record", watched_record), patch.object(Tracker, "flush", watched_flush):
            yield


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


def train(variant: str, digits: Digits) -> dict[str, float]:
    """Seconds, by what they were spent on.

    Of a step, in wall-clock and processor time: the mean over the training. Of everything between the first and the
    last, shared out among the steps. And inside of the tracking: of a step, and of an epoch's table and figure.
    """
    torch.manual_seed(0)
    data = TensorDataset(digits.images, digits.labels)
    loader = DataLoader(data, BATCH, sampler=RandomSampler(data, replacement=True, num_samples=STEPS * BATCH))
    clock, inside = Clock(), Inside()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        if variant in (NOTHING, BY_HAND):
            stack.enter_context(patch.object(Tracker, "_find_sinks", lambda self: []))
        stack.enter_context(inside.watching())
        logged = variant in (WANDB, BY_HAND)
        by_hand = [ByHand(inside)] if variant == BY_HAND else []
        trainer = pl.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            devices=1,
            max_epochs=EPOCHS,
            callbacks=[clock, SAM(rho=0.05), Epochly() if not by_hand else pl.Callback(), *by_hand],
            logger=WandbLogger(offline=True, save_dir=folder, settings=_quiet()) if logged else False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(DigitsNetwork(), loader)
        if logged:
            wandb.finish()
    wall, used = np.mean(clock.steps, axis=0)
    count = EPOCHS * STEPS
    return {
        "step": wall,
        "step, processor": used,
        "training": clock.total[0] / count,
        "training, processor": clock.total[1] / count,
        "inside step": inside.seconds["step"] / count,
        "inside table": inside.seconds["table"] / EPOCHS,
        "inside figure": inside.seconds["figure"] / EPOCHS,
    }


def _quiet() -> wandb.Settings:
    return wandb.Settings(silent=True, console="off", mode="offline")


class Measured:
    """What was measured, by variant.

    Args:
        rounds: How often.
    """

    def __init__(self, rounds: int) -> None:
        self.trainings: dict[str, list[dict[str, float]]] = {name: [] for name in (NOTHING, FOLDER, WANDB, BY_HAND)}
        digits = noisy_digits(seed=0)
        interleaved({name: partial(self._train, name, digits) for name in self.trainings}, rounds)
        self.setting = (
            f"The demo's network with SAM on batches of {BATCH} images, {EPOCHS} epochs of {STEPS} steps, one thread, "
            f"Lightning's and W&B's default settings; {rounds} interleaved rounds, medians and 95% bootstrap intervals "
            "of paired ratios."
        )

    def _train(self, name: str, digits: Digits) -> float:
        self.trainings[name].append(train(name, digits))
        return self.trainings[name][-1]["step"]

    def values(self, name: str, what: str) -> list[float]:
        """Of each round but the one that does not count."""
        return [each[what] for each in self.trainings[name][1:]]

    def line(self, name: str, what: str) -> Line:
        """A step's or a training's time, and its ratios to that with nothing written."""
        wall = paired(self.values(name, what), self.values(NOTHING, what))
        used = paired(self.values(name, f"{what}, processor"), self.values(NOTHING, f"{what}, processor"))
        ratios = (with_interval(used, ".4f"), with_interval(wall, ".4f"), verdict(wall, LIMIT))
        shown = ("", "", "") if name == NOTHING else ratios
        return Line(name, (median(self.values(name, what), ".2f", "ms", 1e3), *shown))

    def ends(self, name: str) -> list[float]:
        """Seconds for an epoch's table and figure together."""
        return [
            table + figure
            for table, figure in zip(self.values(name, "inside table"), self.values(name, "inside figure"), strict=True)
        ]


COLUMNS = ("What is reported", "Wall-clock time", "Ratio, processor time", "Ratio", "Limit")


def report_steps(measured: Measured, write: bool) -> None:
    lines = []
    for name in measured.trainings:
        line = measured.line(name, "step")
        inside = measured.values(name, "inside step")
        share = paired(inside, measured.values(name, "step"), lambda one, step: 100 * one / step)
        lines.append(Line(name, (*line.cells, median(inside, ".0f", "µs", 1e6), with_interval(share, ".2f", "%"))))
    report(
        "Tracking: a step",
        (*COLUMNS, "Inside", "Share"),
        lines,
        f"{measured.setting} From the start of a step to the start of the next in the same epoch, the mean over the "
        "training. W&B's own process is seen in wall-clock time alone. Inside: how long the main thread is within what "
        "reports and writes, the mean over all steps, and its share of a step. By hand that is `self.log`, without "
        "what Lightning then does with it, and what SAM reports and is thrown away, as in the first row.",
        write,
    )


def report_ends(measured: Measured, write: bool) -> None:
    lines = []
    plain, by_hand = measured.values(NOTHING, "step"), measured.ends(BY_HAND)
    for name in (FOLDER, WANDB, BY_HAND):
        ends, steps = measured.ends(name), measured.values(name, "inside step")
        minute = [100 * (end / 60 + inside / step) for end, inside, step in zip(ends, steps, plain, strict=True)]
        kinds = [median(measured.values(name, f"inside {kind}"), ".1f", "ms", 1e3) for kind in ("table", "figure")]
        ratio = "" if name == BY_HAND else with_interval(paired(ends, by_hand), ".2f")
        lines.append(Line(name, (*kinds, median(ends, ".1f", "ms", 1e3), ratio, median(minute, ".2f", "%"))))
    rows = len(norms(DigitsNetwork())[0].rows)
    report(
        "Tracking: the end of an epoch",
        ("What is reported", "Table", "Figure", "Both", "Ratio to by hand", "Of an epoch of a minute"),
        lines,
        f"{measured.setting} Wall-clock time of the main thread within the writing of a table of {rows} rows and of a "
        "figure of 500 by 300 pixels; drawing it counts and making it does not. The last column is reckoned from that "
        "and from the time inside of a step: their share of an epoch that lasts a minute without tracking.",
        write,
    )


def report_trainings(measured: Measured, write: bool) -> None:
    seconds = np.median(measured.values(NOTHING, "training")) * STEPS
    report(
        "Tracking: all of a training, by the step",
        COLUMNS,
        [measured.line(name, "training") for name in measured.trainings],
        f"{measured.setting} Everything between the first step and the last is shared out among the steps, with the "
        f"ends of epochs, where a figure and a table are written. These epochs last {seconds:.1f} s; in longer ones "
        "their ends weigh less. W&B's own process is seen in wall-clock time alone.",
        write,
    )


def main() -> None:
    options = arguments(__doc__, rounds=7)
    torch.set_num_threads(1)
    wandb.setup(_quiet())
    measured = Measured(options.rounds)
    report_steps(measured, options.write)
    report_ends(measured, options.write)
    report_trainings(measured, options.write)


if __name__ == "__main__":
    main()
