"""What an offline W&B run holds afterwards, read back from its files."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from offline_run import OfflineRun, read_run
from PIL import Image
from reporting_run import CONFIG, Regression, Reporting, Sharpened, report_all, trainer_for
from torch import Tensor
from warm_interpreter import WarmInterpreter

from thunderstone.tracking.records import Artifact, Record, Table
from thunderstone.tracking.tracker import Tracker


class Tuned(Regression):
    """Keeps a hyperparameter and logs a value of its own."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.log("own/step", float(self.trainer.global_step))
        return self.loss(batch)


def finished(folder: Path) -> OfflineRun:
    import wandb

    wandb.finish()
    return read_run(folder)


def offline(folder: Path, **settings: Any) -> WandbLogger:
    return WandbLogger(offline=True, save_dir=folder, **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> OfflineRun:
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(variable, str(folder / variable))
        logger = offline(folder, tags=["mine"])
        trainer_for(report_all(folder / "tickets"), logger=logger, log_every_n_steps=4).fit(Tuned())
        return finished(folder)


def test_scalars_have_their_steps_and_epochs(run: OfflineRun) -> None:
    assert run.series("sharpened/norm") == [(step, 1.5) for step in (3, 7, 11, 15)]
    assert [step for step, _ in run.series("own/step")] == [3, 7, 11, 15]
    assert run.series("sharpened/flatness") == [(7, 0.5), (15, 0.5)]
    assert {row["trainer/global_step"]: row["epoch"] for row in run.history} == {3: 0, 7: 0, 11: 1, 15: 1}


def test_tables_have_their_columns_and_rows(run: OfflineRun) -> None:
    assert [(step, entry["_type"]) for step, entry in run.series("sharpened/layers")] == [
        (7, "table-file"),
        (15, "table-file"),
    ]
    table = run.table("sharpened/layers")
    assert table["columns"] == ["layer", "density"]
    assert table["data"] == [["a/b", 0.25], ["Ω, c", None]]


def test_figures_are_images(run: OfflineRun) -> None:
    images = run.series("sharpened/spectrum")
    assert [(step, entry["_type"], entry["width"], entry["height"]) for step, entry in images] == [
        (7, "image-file", 100, 50),
        (15, "image-file", 100, 50),
    ]
    with Image.open(run.files / images[0][1]["path"]) as image:
        assert image.convert("L").getextrema()[0] < 255, "something is drawn"


def test_histograms_have_their_intervals(run: OfflineRun) -> None:
    assert run.series("sharpened/weights") == [
        (step, {"_type": "histogram", "values": [1, 2, 0, 1], "bins": [0, 1, 2, 3, 4]}) for step in (7, 15)
    ]


def test_artifacts_have_type_metadata_and_files(run: OfflineRun) -> None:
    run_id = run.path.stem.removeprefix("run-")
    tickets = [artifact for artifact in run.artifacts if artifact["type"] == "ticket"]
    assert [ticket["metadata"] for ticket in tickets] == [
        {"density": 0.2, "bound": "inf", "step": step, "epoch": epoch} for step, epoch in ((7, 0), (15, 1))
    ]
    assert {ticket["name"] for ticket in tickets} == {f"sharpened-ticket-{run_id}"}
    assert all(ticket["files"] == ["ticket.pt"] for ticket in tickets)


def test_configuration_and_tags_join_those_of_the_user(run: OfflineRun) -> None:
    assert {name: value for name, value in run.config.items() if name != "_wandb"} == {**CONFIG, "width": 4}
    assert run.tags == ["mine", "sharpened"]


def test_the_summary_has_the_last_and_the_best_of_every_scalar(tmp_path: Path) -> None:
    logger = offline(tmp_path)
    values = [3.0, -1.0, 2.0]

    def epoch_end(reporting: Reporting) -> None:
        epoch = reporting.trainer.current_epoch
        reporting.report("flatness", values[epoch])
        reporting.report("layers", Table(["layer"], [["a"]]))

    trainer_for(Reporting(epoch_end=epoch_end), logger=logger, max_epochs=3, log_every_n_steps=8).fit(Tuned())
    run = finished(tmp_path)
    assert run.summary["sharpened/flatness"] == {"min": -1, "max": 3, "last": 2}
    assert run.axes["sharpened/flatness"] == "trainer/global_step"
    # What is no scalar, and what is not the method's, is as W&B has it.
    assert run.summary["sharpened/layers"]["_type"] == "table-file"
    assert run.summary["sharpened/layers"] == run.series("sharpened/layers")[-1][1]
    assert run.summary["own/step"] == 23
    assert "own/step" not in run.axes


def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    first = offline(tmp_path / "first")
    trainer = trainer_for(report_all(tmp_path / "tickets"), logger=first, max_epochs=1)
    trainer.fit(Tuned())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    before = finished(tmp_path / "first")

    second = offline(tmp_path / "second", id=before.run_id, resume="allow")
    resumed = trainer_for(report_all(tmp_path / "more tickets"), logger=second, max_epochs=2)
    resumed.fit(Tuned(), ckpt_path=tmp_path / "last.ckpt")
    after = finished(tmp_path / "second")

    assert after.run_id == before.run_id
    assert [before.series("sharpened/flatness"), after.series("sharpened/flatness")] == [[(7, 0.5)], [(15, 0.5)]]
    assert {key: value for key, value in after.config.items() if key != "_wandb"} == {**CONFIG, "width": 4}
    tickets = [[a for a in run.artifacts if a["type"] == "ticket"] for run in (before, after)]
    assert [[ticket["metadata"]["step"] for ticket in some] for some in tickets] == [[7], [15]]
    assert tickets[0][0]["name"] == tickets[1][0]["name"], "both are versions of one artifact"


@pytest.mark.parametrize(("log_model", "checkpoints"), [(False, 0), (True, 1), ("all", 2)])
def test_checkpoints_are_artifacts_as_the_logger_is_told(
    log_model: Any, checkpoints: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Lightning refuses to log checkpoints where it is told to be offline, not where W&B is.
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(save_dir=tmp_path, log_model=log_model)
    settings = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    trainer_for(report_all(tmp_path / "tickets"), logger=logger, **settings).fit(Regression())
    run = finished(tmp_path)
    kinds = [artifact["type"] for artifact in run.artifacts]
    assert kinds.count("model") == checkpoints
    # What a method keeps is no checkpoint, and it has one version an epoch.
    assert kinds.count("ticket") == 2
    assert {artifact["run"] for artifact in run.artifacts if artifact["type"] in ("model", "ticket")} == {run.run_id}


@pytest.mark.ddp
def test_other_ranks_write_nothing_and_have_what_callbacks_monitor(
    tmp_path: Path, warm_interpreter: WarmInterpreter
) -> None:
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        import torch
        from lightning.pytorch.callbacks import ModelCheckpoint
        from lightning.pytorch.loggers import WandbLogger
        from reporting_run import Regression, trainer_for
        from thunderstone import Method, Table

        class Saying(Method):
            name = "saying"

            def on_train_epoch_end(self, trainer, pl_module):
                self.record("rank", float(trainer.global_rank))
                self.record("away", abs(trainer.current_epoch - 0.5 * trainer.global_rank))
                self.record("ranks", Table(["rank"], [[trainer.global_rank]]))

        torch.set_num_threads(1)
        here = str(Path(__file__).parent)
        logger = WandbLogger(offline=True, save_dir=here)
        keeping = ModelCheckpoint(here, "{{epoch}}", monitor="saying/away", save_on_train_epoch_end=True)
        settings = dict(logger=logger, strategy="ddp", devices=2, default_root_dir=here, enable_checkpointing=True)
        trainer = trainer_for([Saying(), keeping], **settings)
        trainer.fit(Regression())
        found = [float(trainer.callback_metrics[key]) for key in ("saying/rank", "saying/away")]
        Path(here, f"rank{{trainer.global_rank}}").write_text(f"{{found}} {{Path(keeping.best_model_path).name}}")
        if torch.distributed.get_rank() == 0:
            logger.experiment.finish()
    """
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    # Without the process that writes this one's runs.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    result = warm_interpreter.run([path], tmp_path, environment)
    assert result.returncode == 0, result.stderr[-3000:]
    run = read_run(tmp_path)  # which takes only one
    # Eight batches an epoch for two processes.
    assert run.series("saying/rank") == [(3, 0), (7, 0)]
    # Each process has its own values, and all decide together.
    found = [(tmp_path / f"rank{rank}").read_text() for rank in range(2)]
    assert found == ["[0.0, 1.0] epoch=0.ckpt", "[1.0, 0.5] epoch=0.ckpt"]
    assert len(run.series("saying/ranks")) == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ({}, {"sharpened": {"rho": 0.05, "adaptive": False}}),
        ({"rho": 0.3}, {"sharpened": {"rho": 0.05, "adaptive": False}}),
        (None, {"sharpened": None, "thunderstone.sharpened": {"rho": 0.05, "adaptive": False}}),
        ("a word", {"sharpened": "a word", "thunderstone.sharpened": {"rho": 0.05, "adaptive": False}}),
        (
            {"rho": 0.3, "on": True},
            {"sharpened": {"rho": 0.3, "on": True}, "thunderstone.sharpened": {"rho": 0.05, "adaptive": False}},
        ),
    ],
    ids=["nothing of it", "some of the arguments", "None", "a word", "something else"],
)
def test_what_the_user_keeps_under_a_methods_name_stays(present: Any, expected: Any, tmp_path: Path) -> None:
    logger = offline(tmp_path)
    if present != {}:
        logger.experiment.config.update({"sharpened": present})
    trainer = trainer_for([], logger=logger)
    for _ in range(2):
        tracker = Tracker(trainer)
        tracker.start([Sharpened()])
        tracker.finish()
    config = finished(tmp_path).config
    assert {name: value for name, value in config.items() if "sharpened" in name} == expected


def test_a_prefix_holds_for_records_too(tmp_path: Path) -> None:
    tracker = Tracker(trainer_for([], logger=offline(tmp_path, prefix="trial")))
    tracker.record(Record("m", "x", 1.0, 5, 0))
    tracker.record(Record("m", "t", Table(["a"], [[1], ["mixed"]]), 5, 0))
    tracker.finish()
    run = finished(tmp_path)
    assert run.series("trial-m/x") == [(5, 1)]
    assert len(run.series("trial-m/t")) == 1


def test_a_folder_is_an_artifact_with_its_files(tmp_path: Path) -> None:
    source = tmp_path / "ema"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "weights.bin").write_bytes(b"123")
    tracker = Tracker(trainer_for([], logger=offline(tmp_path)))
    tracker.record(Record("m", "averaged weights", Artifact(source, "weights"), 5, 0))
    tracker.finish()
    [artifact] = finished(tmp_path).artifacts
    assert artifact["files"] == ["deep/weights.bin"]
    assert artifact["name"].startswith("m-averaged-weights-")


def test_several_loggers_get_the_same(tmp_path: Path) -> None:
    csv = CSVLogger(tmp_path)
    trainer_for(report_all(tmp_path / "tickets"), logger=[csv, offline(tmp_path)], max_epochs=1).fit(Regression())
    run = finished(tmp_path)
    assert run.series("sharpened/flatness") == [(7, 0.5)]
    assert "sharpened/flatness" in (Path(csv.log_dir) / "metrics.csv").read_text()
    assert (Path(csv.log_dir) / "tables/sharpened/layers_step7.csv").exists()
    assert len(run.series("sharpened/layers")) == 1


def test_a_disabled_run_is_no_failure(tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path, mode="disabled")
    trainer_for(report_all(tmp_path / "tickets"), logger=logger).fit(Regression())
    assert not (tmp_path / "runs").exists()
    assert not list(tmp_path.glob("wandb/*run*"))


def test_wandb_is_not_imported_without_a_wandb_logger(tmp_path: Path) -> None:
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        sys.modules["wandb"] = None  # importing it now raises
        from pathlib import Path
        from reporting_run import Regression, report_all, trainer_for
        trainer_for(report_all(Path("tickets"))).fit(Regression())
        [scalars] = Path().glob("runs/*/scalars.csv")
        print(len(scalars.read_text().splitlines()))
    """
    command = [sys.executable, "-W", "error::thunderstone.tracking.sink.TrackingWarning", "-c", textwrap.dedent(script)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == "3"
