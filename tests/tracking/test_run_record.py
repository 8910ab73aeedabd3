"""`run.json`: what every tracked run leaves about itself, and how a run that was killed is known."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from reporting_run import CONFIG, Regression, Reporting, report_all, trainer_for

from thunderstone.tracking import provenance
from thunderstone.tracking.run_record import RunRecord, read_record, write_json
from thunderstone.tracking.sink import TrackingWarning


class Logging(Regression):
    """Logs its loss."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss


def the_record(root: Path) -> dict[str, Any]:
    [path] = root.glob("runs/*/run.json")
    return read_record(path)


def reports() -> Reporting:
    return Reporting(step=lambda r: r.report("norm", 1.0))


def test_a_run_that_finishes_says_what_it_was(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    reporting = Reporting(step=lambda r: r.report("norm", 1.0), epoch_end=lambda r: seen.append(the_record(tmp_path)))
    torch.manual_seed(11)
    trainer = trainer_for(reporting, default_root_dir=tmp_path)
    trainer.fit(Logging())

    assert [(record["status"], record["ended"]) for record in seen[1:]] == [("running", None)]
    record = the_record(tmp_path)
    assert (record["status"], record["reason"], record["schema"]) == ("finished", "", 1)
    assert record["seed"] == {"lightning": None, "torch": 11}
    assert record["methods"] == CONFIG
    assert record["command"] == sys.orig_argv
    assert record["directory"] == str(tmp_path)
    assert record["versions"]["torch"] == torch.__version__
    assert record["hardware"] == provenance.hardware()
    assert (record["epochs"], record["steps"], record["precision"]) == (2, 16, "32-true")
    assert record["metrics"] == {"loss": float(trainer.callback_metrics["loss"])}
    assert record["wall_seconds"] > 0
    assert record["processor_seconds"] > 0
    assert record["started"] <= record["ended"]


def test_the_seed_of_lightning_is_known_where_it_was_asked_for_one(tmp_path: Path) -> None:
    os.environ["PL_GLOBAL_SEED"] = "5"
    trainer_for(reports(), default_root_dir=tmp_path, max_epochs=1).fit(Regression())
    assert the_record(tmp_path)["seed"]["lightning"] == 5


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("no data"), "failed", "ValueError: no data"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt: "),
    ],
    ids=["failed", "interrupted"],
)
def test_a_run_that_does_not_finish_says_why(error: BaseException, status: str, reason: str, tmp_path: Path) -> None:
    def fail(reporting: Reporting) -> None:
        raise error

    reporting = Reporting(step=lambda r: r.report("norm", 1.0), validation_end=fail)
    with pytest.raises((ValueError, SystemExit, KeyboardInterrupt)):
        trainer_for(reporting, default_root_dir=tmp_path).fit(Regression())
    record = the_record(tmp_path)
    assert (record["status"], record["reason"]) == (status, reason)


def test_two_fits_into_one_folder_have_a_record_each(tmp_path: Path) -> None:
    trainer = trainer_for(reports(), default_root_dir=tmp_path, max_epochs=1, logger=CSVLogger(tmp_path))
    module = Regression()
    trainer.fit(module)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module)
    [folder] = tmp_path.glob("lightning_logs/*")
    records = [read_record(folder / name) for name in ("run.json", "run_2.json")]
    assert [(record["status"], record["epochs"]) for record in records] == [("finished", 1), ("finished", 2)]


def test_an_offline_run_of_wandb_has_it_among_its_files(tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    trainer_for(reports(), logger=logger, default_root_dir=tmp_path, max_epochs=1).fit(Regression())
    [path] = tmp_path.glob("wandb/offline-run-*/files/run.json")
    assert read_record(path)["status"] == "finished"


def test_a_place_that_takes_no_record_is_warned_of_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("thunderstone.tracking.run_record.os.replace", read_only)
    reporting = report_all(tmp_path / "tickets")
    trainer = trainer_for(reporting, default_root_dir=tmp_path)
    with pytest.warns(TrackingWarning, match="Read-only file system"):
        trainer.fit(Regression())
    assert trainer.global_step == 16
    assert not list(tmp_path.rglob(".run.json*")), "nothing half-written stays"


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"status": "running"})

    def full(source: Path, target: Path) -> None:
        assert json.loads(Path(source).read_text()) == {"status": "finished"}, "whole before it gets the name"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("thunderstone.tracking.run_record.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"status": "finished"})
    assert json.loads(path.read_text()) == {"status": "running"}
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


KILLED = """
import os, signal, sys
from pathlib import Path
from thunderstone.tracking.run_record import RunRecord
RunRecord(seed=3).place(Path("."))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_is_known_as_such(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "running"
    record = read_record(tmp_path / "run.json")
    assert (record["status"], record["seed"]) == ("killed", 3)
    assert record["reason"] == "its process ended without a word"


def test_a_number_that_another_process_has_by_now_is_not_the_run(tmp_path: Path) -> None:
    path = RunRecord().place(tmp_path)
    assert read_record(path)["status"] == "running"
    content = json.loads(path.read_text())
    content["process"]["began"] -= 1
    write_json(path, content)
    assert read_record(path)["status"] == "killed"


def test_nothing_is_said_of_processes_of_another_machine(tmp_path: Path) -> None:
    path = RunRecord(process={"host": "elsewhere", "pid": 1, "began": 1}).place(tmp_path)
    assert read_record(path)["status"] == "running"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"schema": 1, "stat', "run.json: JSONDecodeError"),
        ("", "run.json: JSONDecodeError"),
        ("[]", "run.json: written by another version of Thunderstone (schema None, this is 1)"),
        ('{"schema": 2}', "run.json: written by another version of Thunderstone (schema 2, this is 1)"),
        ('{"schema": 1, "settings": []}', "run.json: it is not the record of a run"),
    ],
    ids=["half", "empty", "a list", "a later version", "a comparison"],
)
def test_what_is_no_record_says_why(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    record = read_record(path)
    assert record["status"] == "unreadable"
    assert record["reason"].startswith(reason)


def test_values_that_json_does_not_know_are_written_as_text(tmp_path: Path) -> None:
    record = RunRecord()
    path = record.place(tmp_path)
    record.close("finished", metrics={"loss": float("nan")})
    assert read_record(path)["metrics"] == {"loss": "nan"}


def test_a_place_that_is_gone_keeps_the_end_from_no_other(tmp_path: Path) -> None:
    record = RunRecord()
    folders = [tmp_path / name for name in ("deleted", "kept")]
    for folder in folders:
        folder.mkdir()
        record.place(folder)
    shutil.rmtree(folders[0])
    with pytest.raises(FileNotFoundError, match="deleted"):
        record.close("finished", steps=3)
    kept = read_record(folders[1] / "run.json")
    assert (kept["status"], kept["steps"]) == ("finished", 3)


# -- where it comes from -----------------------------------------------------------------------------------------------


def test_the_state_of_git_is_commit_branch_and_changed_files(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert provenance.git_state(tmp_path) is None
    provenance._git.cache_clear()
    git("init", "--quiet", "--initial-branch=trunk")
    (tmp_path / "train.py").write_text("1")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    (tmp_path / "train.py").write_text("2")
    (tmp_path / "untracked.py").write_text("")
    assert provenance.git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "branch": "trunk", "changed_files": 1}
    provenance._git.cache_clear()


def test_without_git_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state(tmp_path) is None


def test_the_hardware_is_described_without_a_name(tmp_path: Path) -> None:
    words = provenance.hardware()
    assert f"{provenance.cores()} core" in words
    assert provenance.this_process()["host"] not in words.split()
