"""What an MLflow run holds: the real package, with the store of plain files that needs no server.

MLflow 3 refuses that store unless a variable says that one wants it all the same.
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger
from PIL import Image
from reporting_run import CONFIG, Regression, Reporting, Sharpened, report_all, trainer_for

from thunderstone.tracking.mlflow_runs import MLFlowSink
from thunderstone.tracking.run_record import RunRecord
from thunderstone.tracking.sink import TrackingWarning


@pytest.fixture(autouse=True)
def _file_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)


def logger_in(folder: Path, **settings: Any) -> MLFlowLogger:
    return MLFlowLogger(tracking_uri=f"file:{folder / 'mlruns'}", **settings)


def data_of(logger: MLFlowLogger) -> Any:
    return logger.experiment.get_run(logger.run_id).data


def series(logger: MLFlowLogger, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in logger.experiment.get_metric_history(logger.run_id, key)]


def files_of(logger: MLFlowLogger) -> Path:
    return Path(logger.experiment.get_run(logger.run_id).info.artifact_uri.removeprefix("file://"))


def test_everything_that_is_reported_is_in_the_run(tmp_path: Path) -> None:
    logger, beside = logger_in(tmp_path), CSVLogger(tmp_path / "csv")
    reporting = report_all(tmp_path / "tickets")
    trainer_for(reporting, logger=[logger, beside], log_every_n_steps=4, default_root_dir=tmp_path).fit(Regression())

    assert series(logger, "sharpened/norm") == [(step, 1.5) for step in (3, 7, 11, 15)]
    assert series(logger, "sharpened/flatness") == [(7, 0.5), (15, 0.5)]
    data = data_of(logger)
    assert data.tags["thunderstone.methods"] == "sharpened"
    assert data.params == {
        f"{name}/{argument}": str(value) for name, arguments in CONFIG.items() for argument, value in arguments.items()
    }

    files = files_of(logger)
    assert sorted(str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()) == [
        "artifacts/sharpened/ticket_step15.json",
        "artifacts/sharpened/ticket_step15/ticket.pt",
        "artifacts/sharpened/ticket_step7.json",
        "artifacts/sharpened/ticket_step7/ticket.pt",
        "figures/sharpened/spectrum_step15.png",
        "figures/sharpened/spectrum_step7.png",
        "histograms/sharpened/weights_step15.csv",
        "histograms/sharpened/weights_step7.csv",
        "run.json",
        "tables/sharpened/layers_step15.csv",
        "tables/sharpened/layers_step7.csv",
    ]
    table = (files / "tables/sharpened/layers_step7.csv").read_text(encoding="utf-8")
    assert list(csv.reader(io.StringIO(table))) == [["layer", "density"], ["a/b", "0.25"], ["Ω, c", ""]]
    with Image.open(files / "figures/sharpened/spectrum_step15.png") as image:
        assert image.size == (100, 50)
        assert image.convert("L").getextrema()[0] < 128
    described = json.loads((files / "artifacts/sharpened/ticket_step7.json").read_text())
    assert (files / "artifacts/sharpened" / described["path"]).is_file()
    assert json.loads((files / "run.json").read_text())["status"] == "finished"
    # The other logger has everything too.
    assert (Path(beside.log_dir) / "figures/sharpened/spectrum_step15.png").is_file()
    assert not (tmp_path / "runs").exists()


def test_a_second_fit_into_one_run_takes_nothing_away(tmp_path: Path) -> None:
    logger = logger_in(tmp_path, prefix="trial")
    for number in range(2):
        trainer_for(report_all(tmp_path / f"tickets{number}"), logger=logger, max_epochs=1).fit(Regression())
    files = files_of(logger)
    for root in (files, files / "fit_2"):
        assert (root / "tables/sharpened/layers_step7.csv").is_file()
        assert json.loads((root / "run.json").read_text())["status"] == "finished"
    assert series(logger, "trial-sharpened/flatness") == [(7, 0.5)] * 2
    # Once more with another radius: MLflow keeps what a parameter was first said to be.
    MLFlowSink(logger).configuration({"sharpened": Sharpened(rho=0.5).arguments}, ["sharpened"])
    params = data_of(logger).params
    assert (params["sharpened/rho"], params["thunderstone/sharpened/rho"]) == ("0.05", "0.5")


def test_a_name_that_is_refused_costs_no_other_metric(tmp_path: Path) -> None:
    logger = logger_in(tmp_path)
    sink = MLFlowSink(logger)
    values = {"a/norm": 1.0, "a/norm/first": 2.0, "b//c": 3.0, "d": 4.0}
    with pytest.warns(TrackingWarning) as warned:
        sink.scalars({key: value + 3 for key, value in values.items()}, 3, 0)
    sink.scalars({key: value + 7 for key, value in values.items()}, 7, 0)  # a second warning would be an error
    [warning] = warned
    message = str(warning.message)
    assert message.startswith("MLFlowLogger does not take the name of these metrics, which are left out from now on: ")
    assert re.findall(r"'([^']*)' \(Mlflow", message) == ["a/norm/first", "b//c"]
    for key in ("a/norm", "d"):
        assert series(logger, key) == [(step, values[key] + step) for step in (3, 7)]
    assert {step for step, _ in series(logger, "epoch")} == {3, 7}


def test_where_nothing_can_be_written_no_name_is_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **keywords: Any) -> None:
        raise ConnectionError("no server")

    sink = MLFlowSink(logger_in(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(sink.logger.experiment, "log_batch", unreachable)
        with pytest.raises(ConnectionError, match="no server"):
            sink.scalars({"a": 1.0}, 3, 0)
    sink.scalars({"a": 2.0}, 7, 0)
    assert series(sink.logger, "a") == [(7, 2.0)]


def test_nothing_is_left_behind_where_the_end_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any) -> None:
        raise ConnectionError("no server")

    sink, record = MLFlowSink(logger_in(tmp_path)), RunRecord()
    sink.run(record)
    [path] = record.paths
    assert path.is_file()
    monkeypatch.setattr(sink.logger.experiment, "log_artifact", unreachable)
    with pytest.raises(ConnectionError, match="no server"):
        sink.finish()
    assert not path.parent.exists()
    sink.finish()


def test_two_tables_of_one_name_and_step_are_both_kept(tmp_path: Path) -> None:
    from thunderstone import Table

    def epoch_end(reporting: Reporting) -> None:
        for value in (1, 2):
            reporting.report("layers", Table(["a"], [[value]]))

    logger = logger_in(tmp_path)
    trainer_for(Reporting(epoch_end=epoch_end), logger=logger, max_epochs=1).fit(Regression())
    tables = files_of(logger) / "tables" / "sharpened"
    assert [(tables / f"layers_step7{again}.csv").read_text().split() for again in ("", "_2")] == [
        ["a", "1"],
        ["a", "2"],
    ]
