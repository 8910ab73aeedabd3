"""Scalars land on the same steps, epochs and axes as what Lightning's own `self.log` writes."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from reporting_run import Regression, Reporting, trainer_for
from torch import Tensor, distributed

from thunderstone.tracking.records import Record
from thunderstone.tracking.scalars import read, snapshot
from thunderstone.tracking.tracker import Tracker


class LoggingRegression(Regression):
    """Logs with `self.log`, at the moments at which `REPORTING` reports."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("own/step", float(self.trainer.global_step), on_step=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("own/epoch_end", float(self.trainer.current_epoch))

    def on_validation_epoch_end(self) -> None:
        self.log("own/validation_end", float(self.trainer.global_step))


def _reporting() -> Reporting:
    return Reporting(
        step=lambda r: r.report("step", float(r.trainer.global_step), within_step=True),
        epoch_end=lambda r: r.report("epoch_end", float(r.trainer.current_epoch)),
        validation_end=lambda r: r.report("validation_end", float(r.trainer.global_step)),
    )


def _rows(folder: Path) -> list[dict[str, str]]:
    [path] = folder.glob("lightning_logs/version_*/metrics.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _points(rows: list[dict[str, str]], key: str) -> list[tuple[int, int, float]]:
    return [(int(row["step"]), int(float(row["epoch"])), float(row[key])) for row in rows if row.get(key)]


class StopAt(Callback):
    """Asks for the end of training, at the given hook of the given step."""

    def __init__(self, hook: str, step: int) -> None:
        def stop(trainer: Trainer, *_: Any, **__: Any) -> None:
            if trainer.global_step == step:
                trainer.should_stop = True

        setattr(self, hook, stop)


class SaveAt(Callback):
    """Saves a checkpoint after the given step."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


class StopsItself(LoggingRegression):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step == 6:
            self.trainer.should_stop = True


SETTINGS: dict[str, Callable[[], tuple[LightningModule, dict[str, Any], list[Callback]]]] = {
    "every step": lambda: (LoggingRegression(), {"log_every_n_steps": 1}, []),
    "every third": lambda: (LoggingRegression(), {"log_every_n_steps": 3}, []),
    "never": lambda: (LoggingRegression(), {"log_every_n_steps": 0}, []),
    "accumulated": lambda: (LoggingRegression(), {"log_every_n_steps": 2, "accumulate_grad_batches": 3}, []),
    "validation within the epoch": lambda: (
        LoggingRegression(),
        {"log_every_n_steps": 3, "val_check_interval": 3, "num_sanity_val_steps": 1},
        [],
    ),
    "max_steps": lambda: (LoggingRegression(), {"log_every_n_steps": 3, "max_steps": 11}, []),
    "stopped in a batch": lambda: (
        LoggingRegression(),
        {"log_every_n_steps": 5},
        [StopAt("on_train_batch_end", 7)],
    ),
    "stopped by the module": lambda: (StopsItself(), {"log_every_n_steps": 5}, []),
    "stopped in validation": lambda: (
        LoggingRegression(),
        {"log_every_n_steps": 5, "val_check_interval": 4},
        [EarlyStopping("own/validation_end", mode="min", patience=1)],
    ),
    "stopped too early": lambda: (
        LoggingRegression(),
        {"log_every_n_steps": 5, "min_epochs": 2},
        [StopAt("on_validation_end", 8)],
    ),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_curves_line_up_with_self_log(setting: str, tmp_path: Path) -> None:
    module, settings, callbacks = SETTINGS[setting]()
    trainer = trainer_for([_reporting(), *callbacks], logger=CSVLogger(tmp_path), **settings)
    trainer.fit(module)

    rows = _rows(tmp_path)
    for moment in ("step", "epoch_end", "validation_end"):
        assert _points(rows, f"sharpened/{moment}") == _points(rows, f"own/{moment}"), moment
    assert _points(rows, "own/epoch_end")
    assert bool(_points(rows, "own/step")) == (settings["log_every_n_steps"] > 0)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("saved_at", [8, 11], ids=["at an epoch's end", "within an epoch"])
def test_a_resumed_run_goes_on_at_its_steps(saved_at: int, tmp_path: Path) -> None:
    saving = SaveAt(saved_at, tmp_path / "saved.ckpt")
    trainer_for([_reporting(), saving]).fit(LoggingRegression())

    second = trainer_for(_reporting(), logger=CSVLogger(tmp_path), log_every_n_steps=3, max_epochs=3)
    second.fit(LoggingRegression(), ckpt_path=tmp_path / "saved.ckpt")
    rows = _rows(tmp_path)
    for moment in ("step", "epoch_end", "validation_end"):
        assert _points(rows, f"sharpened/{moment}") == _points(rows, f"own/{moment}"), moment
    assert [step for step, _, _ in _points(rows, "sharpened/step")] == [
        s for s in (8, 11, 14, 17, 20, 23) if s >= saved_at
    ]


def test_scalars_of_one_step_are_one_row(tmp_path: Path) -> None:
    def report(reporting: Reporting) -> None:
        reporting.report("first", 1.0, within_step=True)
        reporting.report("second", torch.tensor(2.0), within_step=True)
        reporting.report("always", 3)

    trainer_for(Reporting(step=report), logger=CSVLogger(tmp_path), log_every_n_steps=4, max_epochs=1).fit(Regression())
    rows = _rows(tmp_path)

    assert [(row["step"], row["sharpened/first"], row["sharpened/second"]) for row in rows] == [
        (str(step), *(("1.0", "2.0") if step in (3, 7) else ("", ""))) for step in range(8)
    ]
    assert {row["sharpened/always"] for row in rows} == {"3"}


def test_the_last_value_of_a_step_counts_and_outside_of_steps_all_do(tmp_path: Path) -> None:
    def step(reporting: Reporting) -> None:
        reporting.report("closure", 1.0, within_step=True)
        reporting.report("closure", 2.0, within_step=True)

    def epoch_end(reporting: Reporting) -> None:
        reporting.report("measure", 1.0)
        reporting.report("measure", 2.0)

    reporting = Reporting(step=step, epoch_end=epoch_end)
    trainer_for(reporting, logger=CSVLogger(tmp_path), log_every_n_steps=8, max_epochs=1).fit(Regression())
    rows = _rows(tmp_path)
    assert _points(rows, "sharpened/closure") == [(7, 0, 2.0)]
    assert _points(rows, "sharpened/measure") == [(7, 0, 1.0), (7, 0, 2.0)]


def test_a_value_is_the_one_at_the_time_of_the_report(tmp_path: Path) -> None:
    live = torch.zeros(())

    def step(reporting: Reporting) -> None:
        live.add_(1)
        reporting.report("live", live, within_step=True)
        live.add_(100)
        live.sub_(100)
        reporting.report("after", live * 1, within_step=True)
        live.add_(0.5)

    trainer_for(Reporting(step=step), logger=CSVLogger(tmp_path), log_every_n_steps=1, max_epochs=1).fit(Regression())
    rows = _rows(tmp_path)
    assert [value for _, _, value in _points(rows, "sharpened/live")] == [1.5 * step + 1 for step in range(8)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2, 2),
        (True, 1),
        (0.25, 0.25),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (torch.tensor([0.5], requires_grad=True), 0.5),
        (torch.tensor(3), 3),
        (torch.tensor(0.75).numpy(), 0.75),
        (torch.ones(1).numpy()[0], 1.0),
        (math.inf, math.inf),
    ],
    ids=repr,
)
def test_every_kind_of_number_is_a_scalar(value: Any, expected: float, tmp_path: Path) -> None:
    trainer = trainer_for([], logger=CSVLogger(tmp_path))
    tracker = Tracker(trainer)
    tracker.record(Record("m", "value", value, step=4, epoch=1))
    tracker.finish()
    [row] = _rows(tmp_path)
    assert (row["step"], row["epoch"]) == ("4", "1")
    assert float(row["m/value"]) == expected


def test_scalars_are_read_when_the_step_is_over_not_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    item = Tensor.item

    def counted(self: Tensor) -> float:
        reads.append(1)
        return item(self)

    tracker = Tracker(trainer_for([], logger=CSVLogger(tmp_path), log_every_n_steps=2))
    monkeypatch.setattr(Tensor, "item", counted)
    tracker.record(Record("m", "a", torch.ones(()), step=0, epoch=0, within_step=True))
    tracker.record(Record("m", "a", torch.ones(()), step=1, epoch=0, within_step=True))
    assert not reads
    tracker.record(Record("m", "a", torch.ones(()), step=2, epoch=0, within_step=True))
    assert len(reads) == 1, "step 0 is not a logging step, so its value is never read"
    tracker.finish()
    assert len(reads) == 1


@pytest.fixture
def _one_process_group(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # torch leaves a hook behind that puts a rank before every traceback.
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("_one_process_group")
def test_a_distributed_scalar_is_read_where_every_rank_has_it_and_refused_elsewhere() -> None:
    from torch.distributed.tensor import DeviceMesh, DTensor, Partial, Replicate

    mesh = DeviceMesh("cpu", [0])
    whole = DTensor.from_local(torch.tensor(2.5), mesh, [Replicate()])
    assert read(snapshot(whole)) == 2.5
    assert not isinstance(snapshot(whole), DTensor)
    # Reading it would start a collective that the other ranks never join.
    with pytest.raises(ValueError, match="reduce it on all ranks"):
        snapshot(DTensor.from_local(torch.tensor(2.5), mesh, [Partial()]))
