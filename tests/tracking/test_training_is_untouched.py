"""Tracking never changes training: not its random numbers, not its course when a logger fails, not its callbacks."""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from reporting_run import Regression, Reporting, figure, report_all, trainer_for
from test_tensorboard import scalars_of

import thunderstone.tracking.tracker
from thunderstone.tracking.records import Artifact, Record, Table
from thunderstone.tracking.sink import TrackingWarning
from thunderstone.tracking.tracker import Tracker


class Remote(Logger):
    """A third party's logger without a local folder.

    Args:
        act: Called in every `log_metrics`, before the metrics are kept.
    """

    name = "remote"
    version = 0

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        self.act = act
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.hyperparameters: list[Any] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.act()
        self.metrics.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.hyperparameters.append(params)


class OtherRemote(Remote):
    """Another class, so another name in a warning."""


def draw() -> None:
    random.random()
    np.random.rand()
    torch.rand(())


def fail() -> None:
    raise OSError(28, "No space left on device")


def trained(reporting: Reporting | None, **settings: Any) -> tuple[torch.Tensor, float, float, float]:
    """The weights after two epochs from a fixed seed, and the next number of each generator."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    module = Regression()
    trainer_for([] if reporting is None else reporting, log_every_n_steps=1, **settings).fit(module)
    weights = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
    return weights, random.random(), float(np.random.rand()), float(torch.rand(()))


LOGGERS: dict[str, Callable[[Path], Any]] = {
    "none": lambda folder: False,
    "csv": CSVLogger,
    "tensorboard": TensorBoardLogger,
    "wandb": lambda folder: WandbLogger(offline=True, save_dir=folder),
    "one that draws": lambda folder: Remote(draw),
}


@pytest.mark.parametrize("name", LOGGERS)
def test_training_is_the_same_to_the_last_bit(name: str, tmp_path: Path) -> None:
    plain, *plain_draws = trained(None)
    tracked, *draws = trained(report_all(tmp_path / "tickets"), logger=LOGGERS[name](tmp_path))
    assert torch.equal(tracked, plain)
    assert draws == plain_draws


def test_a_logger_that_fails_warns_once_and_training_goes_on(tmp_path: Path) -> None:
    plain, *_ = trained(None)
    failing, working = Remote(fail), OtherRemote()
    with pytest.warns(TrackingWarning) as warned:
        tracked, *_ = trained(report_all(tmp_path / "tickets"), logger=[failing, working])
    assert torch.equal(tracked, plain)
    [message] = [str(warning.message) for warning in warned if warning.category is TrackingWarning]
    assert "Remote could not write sharpened/norm: OSError: [Errno 28] No space left on device" in message
    assert not failing.metrics
    assert [step for step, metrics in working.metrics if "sharpened/norm" in metrics] == list(range(16))


def test_every_failing_logger_is_named(tmp_path: Path) -> None:
    with pytest.warns(TrackingWarning) as warned:
        trained(report_all(tmp_path / "tickets"), logger=[Remote(fail), OtherRemote(fail)])
    assert [str(warning.message).split()[0] for warning in warned if warning.category is TrackingWarning] == [
        "Remote",
        "OtherRemote",
    ]


def test_a_logger_that_recovers_is_written_to_again() -> None:
    failures = iter([True, True])
    logger = Remote(lambda: fail() if next(failures, False) else None)
    with pytest.warns(TrackingWarning):
        trained(Reporting(step=lambda r: r.report("norm", 1.0, within_step=True)), logger=logger)
    assert [step for step, _ in logger.metrics] == list(range(2, 16))


def test_of_several_loggers_one_whose_folder_is_gone_for_a_while_is_named(tmp_path: Path) -> None:
    written, events = CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "events")
    remote = Remote()

    def step(reporting: Reporting) -> None:
        folder, at = Path(written.log_dir), reporting.trainer.global_step
        if at in (3, 6):
            away = tmp_path / "away"
            folder.rename(away) if at == 3 else away.rename(folder)
        reporting.report("norm", float(at), within_step=True)

    with pytest.warns(TrackingWarning, match="CSVLogger could not write sharpened/norm: FileNotFoundError") as warned:
        trained(Reporting(step=step), logger=[remote, written, events], max_epochs=1)
    assert len([warning for warning in warned if warning.category is TrackingWarning]) == 1
    with (Path(written.log_dir) / "metrics.csv").open(newline="") as file:
        assert [float(row["sharpened/norm"]) for row in csv.DictReader(file)] == list(range(8)), "it kept its rows"
    assert [metrics["sharpened/norm"] for _, metrics in remote.metrics] == list(range(8))
    assert [value for _, value in scalars_of(Path(events.log_dir), "sharpened/norm")] == list(range(8))


def test_a_wandb_run_that_is_gone_warns_once(tmp_path: Path) -> None:
    import wandb

    def epoch_end(reporting: Reporting) -> None:
        reporting.report("norm", 1.0)
        reporting.report("layers", Table(["a"], [[1]]))
        if reporting.trainer.current_epoch == 0:
            wandb.finish()

    with pytest.warns(TrackingWarning, match="WandbLogger could not write sharpened/norm: ") as warned:
        trained(Reporting(epoch_end=epoch_end), logger=WandbLogger(offline=True, save_dir=tmp_path))
    assert len([warning for warning in warned if warning.category is TrackingWarning]) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device that is always full is a Linux one")
def test_a_full_disk_warns_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scalars.csv").symlink_to("/dev/full")
    monkeypatch.setattr(thunderstone.tracking.tracker, "new_run_folder", lambda root: tmp_path)
    with pytest.warns(TrackingWarning, match="folder could not write .*No space left on device") as warned:
        trained(Reporting(step=lambda r: r.report("norm", 1.0, within_step=True)))
    assert len([warning for warning in warned if warning.category is TrackingWarning]) == 1


def test_a_folder_that_cannot_be_made_warns_once(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.warns(TrackingWarning, match="the runs/ folder could not write .*FileExistsError") as warned:
        trained(report_all(tmp_path / "tickets"), default_root_dir=tmp_path)
    assert len([warning for warning in warned if warning.category is TrackingWarning]) == 1


def test_an_artifact_that_is_not_there_is_named(tmp_path: Path) -> None:
    tracker = Tracker(trainer_for([], default_root_dir=tmp_path))
    with pytest.warns(TrackingWarning, match="m/ticket: FileNotFoundError: .*gone.pt"):
        tracker.record(Record("m", "ticket", Artifact(tmp_path / "gone.pt", "ticket"), 0, 0))


def test_a_method_that_cannot_be_described_is_no_failure(tmp_path: Path) -> None:
    class Forgetful:
        name = "forgetful"

        @property
        def arguments(self) -> dict[str, Any]:
            raise AttributeError("'Forgetful' object has no attribute 'rho'")

    tracker = Tracker(trainer_for([], default_root_dir=tmp_path))
    with pytest.warns(TrackingWarning, match="the configuration: AttributeError: 'Forgetful' object has no"):
        tracker.start([Forgetful()])
    tracker.record(Record("forgetful", "x", 1.0, 0, 0))
    tracker.finish()
    assert len(list(tmp_path.glob("runs/*/scalars.csv"))) == 1


def test_an_interrupt_is_not_swallowed(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    tracker = Tracker(trainer_for([], logger=Remote(interrupt)))
    tracker.record(Record("m", "x", 1.0, 0, 0))
    with pytest.raises(KeyboardInterrupt):
        tracker.finish()
    tracker.finish()


def test_what_was_reported_before_an_exception_is_written_and_nothing_stays_behind(tmp_path: Path) -> None:
    def step(reporting: Reporting) -> None:
        reporting.report("norm", float(reporting.trainer.global_step), within_step=True)
        if reporting.trainer.global_step == 5:
            raise RuntimeError("the end")

    reporting = Reporting(step=step)
    logger = Remote()
    trainer = trainer_for(reporting, logger=logger, log_every_n_steps=1)
    before = list(trainer.callbacks)
    with pytest.raises(RuntimeError, match="the end"):
        trainer.fit(Regression())
    assert [metrics["sharpened/norm"] for _, metrics in logger.metrics] == [0, 1, 2, 3, 4, 5]
    assert trainer.callbacks == before
    reporting.trackers[-1].finish()
    assert len(logger.metrics) == 6


def test_callbacks_and_checkpoints_are_as_without_a_tracker(tmp_path: Path) -> None:
    during: list[int] = []
    reporting = Reporting(step=lambda r: during.append(len(r.trainer.callbacks)))
    trainer = trainer_for(reporting, logger=Remote())
    before = list(trainer.callbacks)
    trainer.fit(Regression())
    assert trainer.callbacks == before
    assert set(during) == {len(before) + 1}, "the tracker follows the steps through one callback"
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"] == {}


def test_a_logger_without_a_folder_leaves_the_rest_to_the_runs_folder(tmp_path: Path) -> None:
    logger = Remote()
    trainer_for(report_all(tmp_path / "tickets"), logger=logger, default_root_dir=tmp_path).fit(Regression())
    [run] = (tmp_path / "runs").iterdir()
    kept = {"run.json", "config.json", "tables", "histograms", "figures", "artifacts"}
    assert {path.name for path in run.iterdir()} == kept
    assert [step for step, metrics in logger.metrics if "sharpened/flatness" in metrics] == [7, 15]
    assert logger.hyperparameters[0]["sharpened"] == {"rho": 0.05, "adaptive": False}


def test_a_figure_keeps_its_canvas_and_no_backend_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An import of a module that is None raises: whoever goes through pyplot fails here.
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    backend = matplotlib.get_backend(auto_select=False)
    made = figure()
    canvas = made.canvas
    logger = TensorBoardLogger(tmp_path)
    for loggers in ([logger], [WandbLogger(offline=True, save_dir=tmp_path)], False):
        Tracker(trainer_for([], logger=loggers)).record(Record("m", "figure", made, 0, 0))
    logger.finalize("success")
    assert made.canvas is canvas
    assert made.axes, "the figure is still open and drawn on"
    assert matplotlib.get_backend(auto_select=False) == backend
