"""A comparison from beginning to end, with runs that are played back."""

from __future__ import annotations

import csv
import json
import re

import pytest
from filelock import FileLock
from PIL import Image
from pretended_runs import PLAIN, SAM, Run, accuracies

from thunderstone.comparison.settings import Setting
from thunderstone.comparison.table import broken
from thunderstone.errors import RequestError
from thunderstone.tracking import provenance
from thunderstone.tracking.run_record import RunRecord, read_record


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def lines(comparing):
    return [json.loads(line) for line in (comparing.output / "runs.jsonl").read_text().splitlines()]


# -- what it makes -----------------------------------------------------------------------------------------------------


def test_every_setting_runs_with_every_seed_and_the_table_compares_them(comparing):
    assert comparing(seeds=3) == 0
    assert comparing.launcher.started == [(label, seed) for seed in range(3) for label in ("plain", "sam:rho=0.1")]
    table = {" ".join(line.split()) for line in comparing.text.splitlines()}
    assert "plain 0.6 ± 0.1 – 1.00 1.00 3" in table
    assert "sam:rho=0.1 0.7 ± 0.1 +0.1 (+0.1 to +0.1) 1.50 2.00 3" in table
    assert "An interval from 3 seeds is too narrow." in " ".join(comparing.text.split())


def test_results_are_files_that_another_program_can_read(comparing):
    comparing(figure=True)
    logged = {(line["setting"], line["seed"]): line for line in lines(comparing)}
    assert logged["sam:rho=0.1", 1]["metrics"] == {"val_acc": 0.7, "val_loss": pytest.approx(0.3)}
    assert {line["status"] for line in logged.values()} == {"finished"}
    [first, *_] = rows(comparing.output / "runs.csv")
    assert (first["setting"], first["seed"], first["val_acc"], first["passes"]) == ("plain", "0", "0.5", "10")
    plain, sam = rows(comparing.output / "summary.csv")
    assert (plain["setting"], plain["difference"], plain["mean"]) == ("plain", "", "0.55")
    assert float(sam["difference"]) == pytest.approx(0.1)
    assert (sam["time"], sam["passes"]) == ("1.5", "2.0")
    markdown = (comparing.output / "comparison.md").read_text()
    assert "| sam:rho=0.1 | 0.65 ± 0.071 | +0.1 (+0.1 to +0.1) | 1.50 | 2.00 | 2 |" in markdown
    with Image.open(comparing.output / "comparison.png") as image:
        assert image.width > 1000, "two panels, since the metric was logged more than once"
        assert image.convert("L").getextrema()[0] < 100


def test_every_run_has_a_record(comparing):
    comparing()
    records = {path.parent.name: read_record(path) for path in comparing.output.glob("runs/sam*/*/run.json")}
    assert records.keys() == {"seed0", "seed1"}
    record = records["seed1"]
    assert (record["status"], record["seed"]["lightning"]) == ("finished", 1)
    assert record["methods"] == {"sam": {"rho": 0.1}}
    assert record["command"][-7:] == ["--seed", "1", "--with", "sam:rho=0.1", "train.py", "--epochs", "3"]
    assert (record["wall_seconds"], record["processor_seconds"], record["passes"]) == (3.0, 2.5, 20)


def test_a_process_gets_its_folder_and_its_share_of_the_cores(comparing, monkeypatch):
    monkeypatch.setattr(provenance, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("MKL_NUM_THREADS", "5")
    comparing(jobs=3, arguments=("train.py", "--seed={seed}", "{folder}/log", "{setting}"))
    job = comparing.launcher.jobs[1]
    assert job.folder.parent.parent == comparing.output / "runs"
    assert job.environment["THUNDERSTONE_RUN"] == str(job.folder)
    assert job.environment["PL_TRAINER_DEFAULT_ROOT_DIR"] == str(job.folder)
    assert job.environment["OMP_NUM_THREADS"] == "2"
    assert job.environment["MKL_NUM_THREADS"] == "5", "what the user has set stays"
    assert list(job.command[-3:]) == ["--seed=0", f"{job.folder}/log", "sam:rho=0.1"]


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_more_runs_than_jobs_go_on_at_a_time(comparing, jobs, monkeypatch):
    monkeypatch.setattr("thunderstone.comparison.schedule._POLL_SECONDS", 0)
    assert comparing(lambda *run: Run({"val_acc": 1.0}, polls=3), seeds=3, jobs=jobs) == 0
    assert comparing.launcher.most == jobs
    assert len(comparing.launcher.started) == 6


def test_progress_is_shown_on_a_terminal_only(comparing):
    comparing()
    assert "\x1b" not in comparing.text
    assert "seed 0" not in comparing.text
    comparing(seeds=3, terminal=True)
    assert "plain, seed 2: val_acc 0.7" in comparing.text
    assert "6/6" in comparing.text


# -- going on ----------------------------------------------------------------------------------------------------------


def test_what_has_finished_is_not_repeated(comparing):
    comparing()
    table = (comparing.output / "summary.csv").read_bytes()
    assert comparing() == 0
    assert comparing.launcher.started == []
    assert "4 of 4 runs have finished before." in comparing.text
    assert (comparing.output / "summary.csv").read_bytes() == table


def test_more_seeds_and_settings_add_only_their_own_runs(comparing):
    comparing()
    asam = Setting("asam", ("asam",), {"asam": {}})
    comparing(seeds=3, settings=(PLAIN, SAM, asam))
    expected = {("plain", 2), ("sam:rho=0.1", 2), ("asam", 0), ("asam", 1), ("asam", 2)}
    assert set(comparing.launcher.started) == expected
    assert [row["seeds"] for row in rows(comparing.output / "summary.csv")] == ["3", "3", "3"]


def test_another_metric_needs_no_run(comparing):
    comparing()
    comparing(metric="val_loss")
    assert comparing.launcher.started == []
    assert rows(comparing.output / "summary.csv")[0]["mean"] == "0.45"


def test_a_misspelt_metric_leaves_the_description_of_the_table_as_it_is(comparing):
    comparing()
    with pytest.raises(RequestError, match=r"logs no metric 'val_ac' .*Did you mean 'val_acc'"):
        comparing(metric="val_ac")
    assert json.loads((comparing.output / "comparison.json").read_text())["metric"] == "val_acc"


def test_ctrl_c_stops_the_runs_and_keeps_what_has_finished(comparing):
    def interrupted(setting, seed):
        run = accuracies(setting, seed)
        run.polls = -1 if (setting, seed) == ("plain", 1) else 0
        return run

    assert comparing(interrupted) == 130
    assert comparing.launcher.stopped == ["interrupt", "interrupt", "stop", "stop"]
    assert "Interrupted after 2 of 4 runs; the same command goes on." in comparing.text
    record = read_record(comparing.output / "runs/plain/seed1/run.json")
    assert (record["status"], record["reason"]) == ("interrupted", "the comparison was stopped")
    assert comparing() == 0
    assert set(comparing.launcher.started) == {("plain", 1), ("sam:rho=0.1", 1)}


def test_ctrl_c_while_a_run_is_being_started_ends_that_run(comparing, monkeypatch):
    def interrupted(record, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunRecord, "place", interrupted)
    assert comparing() == 130
    assert (comparing.launcher.started, comparing.launcher.stopped) == ([("plain", 0)], ["interrupt", "stop"])


def test_a_half_written_run_is_repeated_and_its_files_are_kept(comparing):
    comparing()
    log = comparing.output / "runs.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:-40])
    assert comparing() == 0
    assert comparing.launcher.started == [("sam:rho=0.1", 1)]
    assert sorted(path.name for path in comparing.output.glob("runs/sam*/*")) == ["seed0", "seed1", "seed1_2"]
    assert rows(comparing.output / "runs.csv")[-1]["folder"].endswith("/seed1_2")


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def crashing(setting, seed):
    if (setting, seed) == ("sam:rho=0.1", 0):
        return Run(exit_code=1, stderr="Traceback (most recent call last):\n  ...\nValueError: no [data]\n")
    return accuracies(setting, seed)


def test_a_run_that_crashes_is_told_of_and_stops_nothing(comparing):
    assert comparing(crashing, figure=True) == 1
    assert len(comparing.launcher.started) == 4
    log = next(comparing.output.glob("runs/sam*/seed0/stderr.txt"))
    assert f"sam:rho=0.1, seed 0 failed (exit code 1). {log}:\n" in comparing.text
    assert "    ValueError: no [data]\n" in comparing.text
    assert rows(comparing.output / "summary.csv")[1]["failed"] == "1"
    assert re.search(r"sam:rho=0.1 +0.7 .* 1, 1 failed", comparing.text)
    assert comparing() == 0, "it is run again, alone"
    assert comparing.launcher.started == [("sam:rho=0.1", 0)]


def test_a_run_that_a_signal_ends_says_which(comparing):
    assert comparing(lambda *run: Run(exit_code=-9, stderr="step 4\n")) == 1
    assert "plain, seed 0 failed (ended by SIGKILL)" in comparing.text
    assert lines(comparing)[0]["reason"] == "ended by SIGKILL; its last line was: step 4"


def test_a_run_whose_metric_is_no_number_is_left_out_of_the_mean(comparing):
    def diverging(setting, seed):
        return Run({"val_acc": float("nan")}) if (setting, seed) == ("plain", 0) else accuracies(setting, seed)

    assert comparing(diverging, seeds=3, figure=True) == 0
    plain, sam = rows(comparing.output / "summary.csv")
    assert (plain["seeds"], plain["not_finite"]) == ("2", "1")
    assert float(plain["mean"]) == pytest.approx(0.65)
    assert float(sam["difference"]) == pytest.approx(0.1)


def test_a_metric_that_is_not_logged_stops_after_the_first_run(comparing):
    with pytest.raises(RequestError) as refused:
        comparing(metric="val_ac", jobs=1)
    assert str(refused.value).startswith(
        "compare: the script logs no metric 'val_ac' (plain, seed 0). Did you mean 'val_acc'? "
        "It logs: val_acc, val_loss."
    )
    assert comparing.launcher.started == [("plain", 0)]
    assert comparing(jobs=1) == 0
    assert len(comparing.launcher.started) == 3, "the first run is kept"


def test_a_script_that_logs_nothing_is_told_so(comparing):
    with pytest.raises(RequestError, match="It logs nothing that a Trainer knows of"):
        comparing(lambda *run: Run())
    assert comparing.launcher.stopped == ["interrupt", "stop"], "the other run of the first two"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: {"arguments": ("train.py", "--epochs", "4")}, "holds runs of another command, 'train.py --epo"),
        (lambda folder: (folder / "train.py").write_text("changed") and {}, "of train.py as it was before"),
        (lambda folder: (folder / "out/comparison.json").write_text("{") and {}, "comparison.json cannot be read"),
        (lambda folder: (folder / "out/runs.jsonl").write_text('{"schema": 7}\n') and {}, "by another version of Thu"),
    ],
    ids=["another command", "a changed script", "an unreadable folder", "a later version"],
)
def test_runs_that_cannot_be_compared_are_refused(comparing, tmp_path, change, message):
    comparing()
    options = change(tmp_path)
    with pytest.raises(RequestError, match=message) as refused:
        comparing(**options)
    assert "HINT: " in str(refused.value)
    assert comparing.launcher.started == []


def test_runs_of_other_versions_are_refused(comparing, monkeypatch):
    comparing()
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "99.0", "lightning": "2.6", "thunderstone": "0.1.0"})
    with pytest.raises(RequestError, match=r"holds runs made with .* and .* is installed: they cannot be compared"):
        comparing()


def test_two_comparisons_do_not_share_a_folder(comparing):
    comparing.output.mkdir()
    with FileLock(comparing.output / ".lock"), pytest.raises(RequestError, match="another comparison is running in"):
        comparing()


def test_a_run_that_outlives_its_comparison_is_noticed(comparing):
    comparing()
    folder = comparing.output / "runs/plain/seed7"
    folder.mkdir()
    RunRecord().place(folder)  # of this very process
    with pytest.raises(RequestError, match=r"still goes on in .*seed7"):
        comparing(seeds=3)


def test_a_folder_that_cannot_be_made_is_refused(comparing):
    comparing.output.write_text("a file")
    with pytest.raises(RequestError, match=r"nothing can be written to the folder .*HINT: --output FOLDER"):
        comparing()


def test_a_launcher_that_fails_keeps_what_has_finished(comparing):
    def broken(setting, seed):
        if seed == 1:
            raise OSError(11, "Resource temporarily unavailable")
        return accuracies(setting, seed)

    with pytest.raises(RequestError, match=r"plain, seed 1 cannot be started: .*Resource temporarily unavailable"):
        comparing(broken, jobs=1)
    assert len(lines(comparing)) == 2


def test_a_disk_that_is_full_keeps_what_has_finished(comparing, monkeypatch):
    from thunderstone.comparison import results

    append = results.append

    def full(path, result):
        if result.seed == 1:
            raise OSError(28, "No space left on device")
        append(path, result)

    monkeypatch.setattr("thunderstone.comparison.results.append", full)
    with pytest.raises(RequestError, match=r"cannot be written to any more \(No space left on device\)"):
        comparing()
    assert [line["seed"] for line in lines(comparing)] == [0, 0]
    assert comparing.launcher.stopped == ["interrupt", "stop"]


def test_a_record_that_cannot_be_closed_hides_nothing(comparing, monkeypatch):
    def full(*arguments, **facts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("thunderstone.comparison.results.append", full)
    monkeypatch.setattr(
        RunRecord,
        "close",
        lambda self, status, *rest, **facts: full() if rest == ("the comparison was stopped",) else None,
    )
    with pytest.raises(RequestError, match=r"cannot be written to any more \(No space left on device\)"):
        comparing()
    assert comparing.launcher.stopped == ["interrupt", "stop"]


def test_where_there_is_no_terminal_the_name_of_a_setting_is_in_one_line(comparing):
    long = Setting("sam:rho=0.1,eta=0.01,adaptive=true,interval=2+svrg:skip=[bold,head]", ("sam:rho=0.1",), {})
    comparing(settings=(PLAIN, long))
    assert long.label in comparing.text
    assert long.label in (comparing.output / "comparison.md").read_text()


def test_a_narrow_terminal_breaks_a_setting_between_its_arguments(comparing, monkeypatch):
    long = Setting("sam:rho=0.05,eta=0.01,adaptive=true,interval=2+saf:start_epoch=5", ("sam:rho=0.1",), {})

    def failing(setting, seed):
        return Run(exit_code=1, stderr="no luck\n") if seed == 2 else accuracies(setting, seed)

    comparing(failing, settings=(PLAIN, long), seeds=3, terminal=True, width=80)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", comparing.text)
    rows = plain[plain.index("Setting ") :].partition("val_acc at the end")[0].splitlines()
    assert max(len(row) for row in rows) <= 80
    begin = next(number for number, row in enumerate(rows) if row.startswith(" sam"))
    parts = [part for row in rows[begin:] if (part := row[1:].split(" ")[0])]
    assert "".join(parts) == long.label
    assert all(part.endswith((",", "+", ":")) for part in parts[:-1])
    assert any("1 failed" in row for row in rows)


def test_a_terminal_that_is_too_narrow_for_that_shows_settings_below_the_table(comparing):
    label = "sam:rho=0.05,eta=0.01,adaptive=true,interval=2+saf:start_epoch=5"
    long = Setting(label, ("sam:rho=0.1",), {})
    comparing(settings=(PLAIN, long), seeds=3, terminal=True, width=56)
    said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", comparing.text)
    assert re.search(r"^ plain +0.6 ± 0.1 ", said, re.MULTILINE)
    assert re.search(r"^ \[1\] +0.7 ± 0.1 ", said, re.MULTILINE)
    below = [line.rstrip() for line in said.splitlines()]
    assert below[below.index("[1] sam:rho=0.05,eta=0.01,adaptive=true,interval=2+saf:") + 1] == "start_epoch=5"
    comparing(settings=(PLAIN, long), seeds=3, terminal=True, width=20)
    assert "0.7 ± 0.1" in comparing.text, "the table is wider than the terminal, and whole"


@pytest.mark.parametrize("width", [12, 20, 24, 80])
def test_a_setting_is_only_broken_where_a_word_ends(width):
    label = "hyperfit:target_loss=0.0001,subset=[1,2]+a_name_that_is_much_longer_than_any_line:x=1"
    parts = broken(label, width)
    assert "".join(parts) == label
    assert all(part[-1] in ":,+=" for part in parts[:-1])
    assert [part for part in parts if len(part) > width] == (
        ["a_name_that_is_much_longer_than_any_line:"] if width < 41 else []
    )


# -- runs that wait, and runs that are lost ----------------------------------------------------------------------------


def test_a_run_that_was_lost_is_told_of_with_what_its_launcher_knows(comparing):
    def lost(setting, seed):
        return Run(exit_code=None, reason="WorkerCrashedError: gone") if seed == 0 else accuracies(setting, seed)

    assert comparing(lost, seeds=2) == 1
    assert "plain, seed 0 failed (WorkerCrashedError: gone)" in comparing.text
    first = lines(comparing)[0]
    assert (first["exit_code"], first["status"], first["wall_seconds"]) == (None, "failed", None)
    record = read_record(comparing.output / "runs/plain/seed0/run.json")
    assert (record["status"], record["reason"], record["wall_seconds"]) == ("failed", "WorkerCrashedError: gone", None)


def test_a_run_that_waits_in_a_queue_begins_when_it_has_a_process(comparing, monkeypatch):
    monkeypatch.setattr("thunderstone.comparison.schedule._POLL_SECONDS", 0)
    assert comparing(lambda *run: Run({"val_acc": 1.0}, polls=4, waits=2), seeds=1, terminal=True) == 0
    records = [read_record(path) for path in comparing.output.glob("runs/*/*/run.json")]
    assert [record["process"]["began"] for record in records] == [-1, -1]


def test_ctrl_c_leaves_nothing_of_a_run_that_never_began(comparing, monkeypatch):
    monkeypatch.setattr("thunderstone.comparison.schedule._POLL_SECONDS", 0)

    def waiting(setting, seed):
        return (
            Run(polls=-1) if (setting, seed) == ("sam:rho=0.1", 1) else Run({"val_acc": 0.5}, polls=9, waits=seed * 99)
        )

    assert comparing(waiting, jobs=4) == 130
    assert sorted(path.name for path in comparing.output.glob("runs/plain/*")) == ["seed0"]


# -- what is said of seeds ---------------------------------------------------------------------------------------------


def test_a_script_that_seeds_itself_is_told_of(comparing):
    def seeding(setting, seed):
        run = accuracies(setting, seed)
        run.seeds_overridden = [42]
        return run

    comparing(seeding)
    said = " ".join(comparing.text.split())
    assert "The script calls seed_everything(42), and got each run's own seed instead." in said


def test_seeds_that_change_nothing_are_told_of(comparing):
    comparing(lambda setting, seed: Run({"val_acc": 0.5}))
    assert "Every seed of plain gave the same value" in " ".join(comparing.text.split())


def test_a_single_seed_has_no_spread(comparing):
    comparing(seeds=1)
    said = " ".join(comparing.text.split())
    assert "of 1 seed, so there is no spread" in said
    assert "±" not in said
    assert "±" not in (comparing.output / "comparison.md").read_text()


def test_what_was_taken_for_better_is_said_where_nothing_tells(comparing):
    comparing(guessed=True)
    said = " ".join(comparing.text.split())
    assert "does not say whether larger or smaller is better: larger was taken, and --mode min takes the other" in said
    assert json.loads((comparing.output / "comparison.json").read_text())["mode_guessed"] is True
    comparing()
    assert "does not say" not in comparing.text
