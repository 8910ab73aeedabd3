"""`thunderstone rerun`: a run from its record."""

from __future__ import annotations

import json
import sys

import pytest

from thunderstone.cli.main import main
from thunderstone.tracking.run_record import RunRecord

# What a run leaves that was watched: as far as `rerun` can tell, any program with this variable set.
PROGRAM = """
import json, os, sys
from pathlib import Path
print("said by the run", flush=True)
metrics = json.loads(sys.argv[1])
outcome = {"metrics": metrics, "fits": [json.loads(text) for text in sys.argv[2:]]}
assert os.environ["PL_TRAINER_DEFAULT_ROOT_DIR"] == os.environ["THUNDERSTONE_RUN"]
Path(os.environ["THUNDERSTONE_RUN"], "outcome.json").write_text(json.dumps(outcome))
sys.exit(3 if "exit" in metrics else 0)
"""
THIRD = 1 / 3


@pytest.fixture
def recorded(tmp_path):
    """A function that writes the record of a run and returns its folder."""

    def write(metrics, repeated, *fits, status="finished", program=PROGRAM, **facts):
        rest = [fit if isinstance(fit, str) else json.dumps(fit) for fit in fits]
        command = [sys.executable, "-S", "-c", program, json.dumps(repeated), *rest]
        record = RunRecord(**{"command": command, "directory": str(tmp_path), "seed": {"lightning": 1}, **facts})
        folder = tmp_path / "run"
        folder.mkdir()
        record.place(folder)
        record.close(status, metrics=metrics)
        return folder

    return write


def test_the_same_metrics_to_the_last_bit_are_said_to_be_so(recorded, capfd):
    folder = recorded({"loss": THIRD, "diverged": float("nan")}, {"loss": THIRD, "diverged": "nan", "more": 1.0})
    assert main(["rerun", str(folder)]) == 0
    said = capfd.readouterr().out
    assert "said by the run\n" in said
    assert said.endswith(f"2 of 2 metrics are identical. The repeated run is in {folder / 'rerun'}\n")


def test_another_bit_is_another_result(recorded, capfd):
    folder = recorded({"loss": THIRD, "acc": 1.0, "gone": 2.0}, {"loss": THIRD + 2**-54, "acc": 1.0})
    assert main(["rerun", str(folder / "run.json"), "--output", str(folder.parent / "again")]) == 1
    said = capfd.readouterr().out
    assert f"  loss: {THIRD!r} before, {THIRD + 2**-54!r} now\n" in said
    assert "  gone: 2.0 before, not logged now\n" in said
    assert said.endswith(f"1 of 3 metrics are identical. The repeated run is in {folder.parent / 'again'}\n")


def test_the_record_of_one_fit_is_compared_with_that_fit(recorded, capfd):
    folder = recorded({"acc": 0.5}, {"acc": 0.9}, {"acc": 0.25}, {"acc": 0.5})
    assert main(["rerun", str(folder)]) == 0
    assert "1 of 1 metrics are identical" in capfd.readouterr().out


def test_what_has_changed_is_said(recorded, capfd):
    git = {"commit": "abc", "branch": "main", "changed_files": 2}
    versions = {"torch": "0.1", "left-behind": "3"}
    folder = recorded({"a": 1.0}, {"a": 1.0}, versions=versions, git=git, seed={"lightning": None})
    assert main(["rerun", str(folder)]) == 0
    said = capfd.readouterr().out
    assert "Since then: torch was 0.1, and is 2" in said
    assert "Since then: left-behind was 3, and is not installed\n" in said
    assert "Since then: 2 files had changes that were not committed" in said
    assert "The run was not seeded through Lightning" in said


def test_the_repetition_has_as_many_threads_as_the_run_had(recorded, capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    program = PROGRAM.replace('print("said', 'print({k: v for k, v in os.environ.items() if "_NUM_TH" in k}, "said')
    folder = recorded({"loss": 1.0}, {"loss": 1.0}, program=program, threads={"OMP_NUM_THREADS": "3"})
    assert main(["rerun", str(folder)]) == 0
    assert "{'OMP_NUM_THREADS': '3'} said by the run" in capfd.readouterr().out


def test_what_the_script_writes_to_its_folder_goes_to_the_new_one(recorded, tmp_path):
    program = PROGRAM + "Path(sys.argv[2], 'model.pt').write_text('repeated')"
    program = program.replace("sys.exit(", "(").replace("for text in sys.argv[2:]", "for text in ()")
    folder = recorded(
        {"loss": 1.0}, {"loss": 1.0}, str(tmp_path / "run"), program=program, folder=str(tmp_path / "run")
    )
    (folder / "model.pt").write_text("first")
    assert main(["rerun", str(folder)]) == 0
    assert (folder / "model.pt").read_text() == "first"
    assert (folder / "rerun/model.pt").read_text() == "repeated"


def test_nothing_of_an_earlier_repetition_is_overwritten(recorded, capfd):
    folder = recorded({"a": 1.0}, {"a": 1.0})
    assert [main(["rerun", str(folder)]) for _ in range(2)] == [0, 0]
    assert sorted(path.name for path in folder.iterdir()) == ["rerun", "rerun_2", "run.json"]


def test_a_repetition_that_fails_is_no_success(recorded, capfd):
    assert main(["rerun", str(recorded({"a": 1.0}, {"exit": 1.0}))]) == 1
    assert "The repeated run failed with exit code 3.\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"status": "failed"}, "has no metrics to compare with: the run is failed"),
        ({"metrics": {}}, "has no metrics to compare with: the run logged nothing"),
        ({"command": []}, "has no command"),
        ({"directory": "/not/there"}, "was started in '/not/there', which is not there any more"),
        ({"command": ["/not/there/python", "train.py"]}, "'/not/there/python' cannot be started"),
        ({"command": [sys.executable]}, "no command repeats it. HINT: make a script of it"),
        ({"command": [sys.executable, "-", "--epochs=1"]}, "no command repeats it"),
        ({"command": [sys.executable, "-m", "ipykernel_launcher", "-f", "a.json"]}, "no command repeats it"),
    ],
)
def test_what_cannot_be_repeated_is_refused(recorded, capfd, facts, message):
    metrics = facts.pop("metrics", {"a": 1.0})
    assert main(["rerun", str(recorded(metrics, {"a": 1.0}, **facts))]) == 2
    assert message in capfd.readouterr().err


def test_a_folder_of_several_runs_is_answered_with_their_names(recorded, tmp_path, capsys):
    for number in range(10):
        recorded({"a": 1.0}, {"a": 1.0}).rename(tmp_path / f"seed {number}")
    assert main(["rerun", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "It holds 10 runs. HINT: repeat one of them:" in said
    assert f"thunderstone rerun '{tmp_path}/seed 0'\n" in said
    assert "seed 8" not in said
    assert "… and 2 more" in said


def test_a_place_without_a_record_is_refused(tmp_path, capsys):
    assert main(["rerun", str(tmp_path)]) == 2
    assert "there is no run.json at" in capsys.readouterr().err
    (tmp_path / "run.json").write_text("{")
    assert main(["rerun", str(tmp_path)]) == 2
    assert "run.json: JSONDecodeError" in capsys.readouterr().err
