"""What is written where there is no logger, and beside a logger that has a folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from reporting_run import CONFIG, Regression, Reporting, report_all, trainer_for

from thunderstone.tracking.folder import FolderSink, new_run_folder
from thunderstone.tracking.records import Artifact, Record, Table
from thunderstone.tracking.sink import TrackingWarning
from thunderstone.tracking.tracker import Tracker


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_without_a_logger_everything_is_in_the_runs_folder(tmp_path: Path) -> None:
    reporting = report_all(tmp_path / "tickets")
    trainer_for(reporting, default_root_dir=tmp_path, log_every_n_steps=4).fit(Regression())

    [run] = (tmp_path / "runs").iterdir()
    assert json.loads((run / "config.json").read_text()) == CONFIG
    assert read_csv(run / "scalars.csv") == [
        ["step", "epoch", "key", "value"],
        ["3", "0", "sharpened/norm", "1.5"],
        ["7", "0", "sharpened/norm", "1.5"],
        ["7", "0", "sharpened/flatness", "0.5"],
        ["11", "1", "sharpened/norm", "1.5"],
        ["15", "1", "sharpened/norm", "1.5"],
        ["15", "1", "sharpened/flatness", "0.5"],
    ]
    tables = run / "tables" / "sharpened"
    assert read_csv(tables / "layers_step7.csv") == [["layer", "density"], ["a/b", "0.25"], ["Ω, c", ""]]
    assert sorted(path.name for path in tables.iterdir()) == ["layers_step15.csv", "layers_step7.csv"]
    with Image.open(run / "figures" / "sharpened" / "spectrum_step15.png") as image:
        assert image.size == (100, 50)
        assert image.convert("L").getextrema()[0] < 255, "something is drawn"
    artifacts = run / "artifacts" / "sharpened"
    assert torch.load(artifacts / "ticket_step7" / "ticket.pt", weights_only=True)["mask"].tolist() == [1, 1, 1]
    assert json.loads((artifacts / "ticket_step7.json").read_text()) == {
        "method": "sharpened",
        "name": "ticket",
        "type": "ticket",
        "path": "ticket_step7/ticket.pt",
        "step": 7,
        "epoch": 0,
        "metadata": {"density": 0.2, "bound": "inf"},
    }


def test_a_run_that_reports_nothing_leaves_nothing(tmp_path: Path) -> None:
    trainer_for(Reporting(), default_root_dir=tmp_path).fit(Regression())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("logger", [True, False], ids=["a logger", "no logger"])
def test_fast_dev_run_leaves_nothing(logger: bool, tmp_path: Path) -> None:
    reporting = report_all(tmp_path / "tickets")
    trainer = trainer_for(
        reporting, default_root_dir=tmp_path, fast_dev_run=True, logger=CSVLogger(tmp_path) if logger else False
    )
    trainer.fit(Regression())
    assert [path.name for path in tmp_path.iterdir()] == ["tickets"]


def test_the_sanity_check_is_not_tracked(tmp_path: Path) -> None:
    reporting = Reporting(validation_end=lambda r: r.report("accuracy", 1.0))
    trainer_for(reporting, default_root_dir=tmp_path, num_sanity_val_steps=1, max_epochs=1).fit(Regression())
    [scalars] = tmp_path.glob("runs/*/scalars.csv")
    assert [row[0] for row in read_csv(scalars)[1:]] == ["7"]


def test_a_second_fit_has_a_folder_of_its_own(tmp_path: Path) -> None:
    reporting = report_all(tmp_path / "tickets")
    trainer = trainer_for(reporting, default_root_dir=tmp_path, max_epochs=1)
    trainer.fit(Regression())
    trainer.fit_loop.max_epochs = 2
    trainer.fit(Regression())
    first, second = sorted((tmp_path / "runs").iterdir())
    steps = [{row[0] for row in read_csv(run / "scalars.csv")[1:]} for run in (first, second)]
    assert steps == [{"7"}, {"15"}]


def test_csv_logger_has_the_rest_beside_its_metrics(tmp_path: Path) -> None:
    reporting = report_all(tmp_path / "tickets")
    trainer = trainer_for(reporting, default_root_dir=tmp_path, logger=CSVLogger(tmp_path))
    trainer.fit(Regression())
    folder = Path(trainer.logger.log_dir)
    assert {path.name for path in folder.iterdir()} >= {"metrics.csv", "config.json", "tables", "figures", "artifacts"}
    assert not (folder / "scalars.csv").exists()
    assert not (tmp_path / "runs").exists()
    assert json.loads((folder / "config.json").read_text()) == CONFIG
    assert len(read_csv(folder / "tables" / "sharpened" / "layers_step15.csv")) == 3


def test_a_second_fit_with_one_csv_logger_overwrites_nothing(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    for number in range(2):
        trainer_for(report_all(tmp_path / f"tickets{number}"), logger=logger, max_epochs=1).fit(Regression())
    folder = Path(logger.log_dir)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*step*")}
    for kind, suffix in {"tables": ".csv", "figures": ".png", "artifacts": ""}.items():
        name = {"tables": "layers", "figures": "spectrum", "artifacts": "ticket"}[kind]
        assert {f"{kind}/sharpened/{name}_step7{again}{suffix}" for again in ("", "_2")} <= names
    assert [path.name for path in folder.glob("config*.json")] == ["config.json"], "the same configuration, once"


def test_another_configuration_does_not_replace_the_first(tmp_path: Path) -> None:
    for rho in (0.1, 0.2, 0.1):
        sink = FolderSink(lambda: tmp_path, "folder")
        sink.configuration({"sam": {"rho": rho}}, ["sam"])
        sink.root()
    found = {path.name: json.loads(path.read_text())["sam"]["rho"] for path in tmp_path.iterdir()}
    assert found == {"config.json": 0.1, "config_2.json": 0.2}


def test_a_folder_artifact_is_copied_whole(tmp_path: Path) -> None:
    source = tmp_path / "ema"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "weights.bin").write_bytes(b"123")
    FolderSink(lambda: tmp_path / "run", "folder").artifact(Record("m", "ema", Artifact(source, "weights"), 3, 0))
    assert (tmp_path / "run/artifacts/m/ema_step3/ema/deep/weights.bin").read_bytes() == b"123"


def test_names_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    sink = FolderSink(lambda: tmp_path / "a" / "run", "folder")
    for name in ("../../../out", "/etc/x", "..", "", "layer.1.weight:0 (μ)"):
        sink.table(Record("m", name, Table(["x"], [[1]]), 0, 0))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 5
    assert all((tmp_path / "a/run/tables/m") in path.parents for path in files)
    assert any(path.name == "layer.1.weight_0__μ__step0.csv" for path in files)


def test_runs_started_in_one_second_do_not_meet(tmp_path: Path) -> None:
    folders = [new_run_folder(str(tmp_path)) for _ in range(5)]
    assert len(set(folders)) == 5
    assert all(folder.is_dir() for folder in folders)


def test_a_remote_root_is_not_taken_for_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker(trainer_for([], default_root_dir="s3://bucket/run"))
    tracker.record(Record("m", "x", 1.0, 0, 0))
    with pytest.warns(TrackingWarning, match="s3://bucket/run"):
        tracker.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a word", "a str is none of the things"),
        (torch.ones(2), "a Tensor is none of the things"),
        (torch.tensor(1j), "a Tensor is none of the things"),
        (None, "a NoneType is none of the things"),
    ],
    ids=repr,
)
def test_what_cannot_be_reported_is_named_and_lost(value: Any, message: str, tmp_path: Path) -> None:
    tracker = Tracker(trainer_for([], default_root_dir=tmp_path))
    with pytest.warns(TrackingWarning, match=f"m could not write m/x: TypeError: {message}"):
        tracker.record(Record("m", "x", value, 0, 0))
    tracker.record(Record("m", "y", 2.0, 0, 0))
    tracker.finish()
    [scalars] = tmp_path.glob("runs/*/scalars.csv")
    assert read_csv(scalars)[1:] == [["0", "0", "m/y", "2.0"]]
