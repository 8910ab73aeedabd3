"""`thunderstone report`: what is on the page, and what is not."""

from __future__ import annotations

import base64
import json
import math
import re
import struct

import pytest
from html_page import Page
from lightning.pytorch.loggers import TensorBoardLogger
from report_runs import HOSTILE, make_run

from thunderstone.cli.main import main
from thunderstone.errors import RequestError
from thunderstone.report import event_files
from thunderstone.report.charts import charts, extremes
from thunderstone.report.model import ShownRun
from thunderstone.report.page import page
from thunderstone.report.reading import read
from thunderstone.tracking.run_record import write_json

NETWORK = re.compile(r"https?:|//[\w.-]+\.\w|url\(|@import|\bfetch\(|XMLHttpRequest|WebSocket", re.IGNORECASE)


def shown(folder):
    return Page(page(read(folder)))


# -- what is there -----------------------------------------------------------------------------------------------------


def test_every_curve_is_there_point_by_point(runs):
    found = shown(runs)
    assert [(series.curve, series.run) for series in found.series] == [("sam/norm", 0), ("sam/norm", 1)]
    [ticks] = found.ticks
    (low_place, low), *_, (high_place, high) = ticks

    def value(place):
        return low + (place - low_place) * (high - low) / (high_place - low_place)

    [points] = found.curve("sam/norm").paths
    assert [value(y) for _, y in points] == pytest.approx([4.0, 2.0, 1.0, 3.0], abs=0.02)
    steps = [x for x, _ in points]
    assert steps == sorted(steps)
    assert steps[1] - steps[0] == pytest.approx(steps[3] - steps[2], abs=0.2)
    [killed] = found.curve("sam/norm", 1).paths
    assert [value(y) for _, y in killed] == pytest.approx([3.0, 2.5], abs=0.02)
    assert found.curve("sam/norm").title.strip() == "first: 3"


def test_every_number_is_there_with_all_its_digits(runs):
    rows = shown(runs).table("run", "status")
    assert [[cell.text for cell in row[:4]] for row in rows] == [
        ["first", "finished", "3", "0.875"],
        ["second", "killed", "2.5", ""],
    ]
    assert [row[2].sort for row in rows] == ["3.0", "2.5"]


def test_tables_figures_and_settings_are_there(runs):
    found = shown(runs)
    layers = [table for table in found.tables if [cell.text for cell in table[0]] == ["layer", "density"]]
    assert [[cell.text for cell in table[2]] for table in layers] == [[HOSTILE, "7"], [HOSTILE, "15"]] * 2
    pictures = [reference for reference in found.references if reference.startswith("data:image/png;base64,")]
    drawn = (runs / "first/figures/sam/spectrum_step15.png").read_bytes()
    assert [base64.b64decode(picture.partition(",")[2]) for picture in pictures] == [drawn, drawn]
    pairs = {(row[0].text, row[1].text) for table in found.tables for row in table if len(row) == 2}
    assert {("sam.rho", "0.05"), ("sam.note", HOSTILE), ("seed.torch", "3"), ("val_acc", "0.875")} <= pairs


def test_the_command_line_can_be_copied_into_a_shell(tmp_path):
    make_run(tmp_path / "run", [1.0], command=["python", "my train.py", "--x=$y"], directory="/a b")
    assert "cd '/a b'\npython 'my train.py' '--x=$y'" in shown(tmp_path / "run").text


def test_what_went_wrong_is_said(runs):
    text = shown(runs).text
    assert "1 of 2 runs were killed; their curves end early." in text
    assert "scalars.csv: 1 line could not be read and are left out." in text
    assert "killed: its process ended without a word" in text


def test_runs_of_different_versions_are_told_apart(tmp_path):
    make_run(tmp_path / "a", [1.0], versions={"torch": "2.5.0"})
    make_run(tmp_path / "b", [1.0], versions={"torch": "2.6.0"})
    assert "The runs were made with different versions of torch: 2.5.0, 2.6.0." in shown(tmp_path).text


def test_a_record_that_cannot_be_read_does_not_hide_the_rest(runs):
    (runs / "first/run.json").write_text('{"schema": 1, "sta')
    (runs / "first/config.json").write_text("[")
    found = shown(runs)
    assert found.curve("sam/norm").paths
    assert found.table("run", "status")[0][1].text == "unreadable"
    assert "run.json: JSONDecodeError" in found.text
    assert "config.json cannot be read: JSONDecodeError" in found.text


def test_a_record_that_is_no_object_does_not_hide_the_rest(tmp_path):
    make_run(tmp_path / "run", [1.0, 2.0])
    for content in ("[1]", "3", "null", '"text"', '{"schema": 1, "sta', "\0\0"):
        (tmp_path / "run/run.json").write_text(content)
        [run] = read(tmp_path / "run").runs
        assert (run.status, run.metrics) == ("unreadable", {"sam/norm": 2.0}), content


def test_a_value_of_the_wrong_type_is_left_out_of_a_record_and_named(tmp_path):
    make_run(tmp_path / "run", [1.0, 2.0])
    record = json.loads((tmp_path / "run/run.json").read_text())
    for name, value, place, metrics in (
        ("metrics", {"val_acc": None, "loss": 0.5}, "metrics.val_acc", {"loss": 0.5}),
        ("metrics", {"val_acc": [1], "loss": "nan"}, "metrics.val_acc", {"loss": pytest.approx(math.nan, nan_ok=True)}),
        ("metrics", [0.5], "metrics", {}),
        ("status", 3, "status", {"val_acc": 0.875}),
        ("methods", ["sam"], "methods", {"val_acc": 0.875}),
        ("versions", {"torch": 2}, "versions.torch", {"val_acc": 0.875}),
        ("command", "python train.py", "command", {"val_acc": 0.875}),
        ("directory", ["/a"], "directory", {"val_acc": 0.875}),
    ):
        (tmp_path / "run/run.json").write_text(json.dumps({**record, name: value}))
        report = read(tmp_path / "run")
        [run] = report.runs
        assert run.metrics == {"sam/norm": 2.0, **metrics}
        assert run.facts["seed"] == {"torch": 3}
        [note] = run.notes
        assert f"run.json: {place} is left out: Input should be a valid " in note
        assert note in Page(page(report)).text


def test_a_null_in_a_record_stands_for_what_is_not_known(tmp_path):
    make_run(tmp_path / "run", [1.0])
    record = json.loads((tmp_path / "run/run.json").read_text())
    nothing = dict.fromkeys(["metrics", "methods", "versions", "command", "directory", "reason", "seed"])
    (tmp_path / "run/run.json").write_text(json.dumps({**record, **nothing}))
    [run] = read(tmp_path / "run").runs
    assert (run.status, run.metrics, run.notes) == ("finished", {"sam/norm": 1.0}, [])


def test_values_that_are_no_numbers_leave_a_gap(tmp_path):
    make_run(tmp_path / "run", [1.0, 2.0, float("nan"), 3.0, float("inf"), 1.0, 0.0])
    series = shown(tmp_path / "run").curve("sam/norm")
    assert [len(path) for path in series.paths] == [2, 2]
    assert len(series.dots) == 1


@pytest.mark.parametrize("curve", [[2.0], [2.0, 2.0, 2.0], [float("nan")], [0.0], [1e-300, 1e300], [-5.0, -5.0]])
def test_curves_without_a_range_are_drawn_inside_the_chart(tmp_path, curve):
    make_run(tmp_path / "run", curve)
    series = shown(tmp_path / "run").curve("sam/norm")
    for x, y in [point for path in [*series.paths, series.dots] for point in path]:
        assert 60 <= x <= 480
        assert 0 <= y <= 260


def test_the_metrics_of_a_csv_logger_are_read(tmp_path):
    folder = tmp_path / "lightning_logs/version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch,step,loss,acc\n0,4,0.5,\n0,9,,0.25\n1,14,0.125,\n")
    found = shown(tmp_path)
    assert found.curve("loss").paths
    [row] = found.table("run", "status")
    assert [cell.text for cell in row] == ["lightning_logs/version_0", "unknown", "0.25", "0.125"]


@pytest.mark.parametrize(
    ("head", "extra"),
    [
        ("trial-epoch,trial-loss", set()),
        ("a-epoch,b-epoch,a-loss,b-loss", {"loss"}),  # which of the two it is cannot be known
        ("train-loss,train-acc", {"loss"}),  # no prefix: another metric
        ("train-epoch,train-loss,loss", set()),
        ("epoch-loss,trial-epoch", {"loss"}),
    ],
)
def test_what_a_logger_with_a_prefix_wrote_is_listed_once(tmp_path, head, extra):
    write_json(tmp_path / "run.json", {"schema": 1, "status": "finished", "metrics": {"loss": 0.25}})
    names = head.split(",")
    (tmp_path / "metrics.csv").write_text(f"step,{head}\n4{',1' * len(names)}\n")
    [run] = read(tmp_path).runs
    assert run.metrics.keys() == {*names, *extra}
    assert 0.25 in run.metrics.values()


def test_beside_a_curve_stand_its_smallest_largest_and_last_value(tmp_path):
    values = [4.0, 0.25, float("nan"), 9.0, 3.0]
    make_run(tmp_path / "first", values)
    make_run(tmp_path / "second", [2.0, float("inf")])
    make_run(tmp_path / "third", [float("nan")])
    found = shown(tmp_path)
    assert [[cell.text for cell in row] for row in found.table("run", "smallest")] == [
        ["first", "0.25", "1", "9", "3", "3"],
        ["second", "2", "0", "2", "0", "inf"],
        ["third", "", "", "", "", "nan"],
    ]


def test_they_are_those_of_all_values_also_where_only_some_are_drawn():
    curve = [(float(step), 1.0) for step in range(5000)]
    curve[1234], curve[4321] = (1234.0, -7.0), (4321.0, 7.0)
    [chart] = charts([ShownRun("run", curves={"loss": curve})])
    assert chart.thinned
    assert extremes(chart).rows == [["run", -7.0, 1234.0, 7.0, 4321.0, 1.0]]


def test_of_two_values_of_one_step_the_last_is_the_one_that_came_last():
    [chart] = charts([ShownRun("run", curves={"loss": [(7.0, 3.0), (15.0, 2.0), (15.0, 1.0)]})])
    assert extremes(chart).rows == [["run", 1.0, 15.0, 3.0, 7.0, 1.0]]
    assert chart.lines[0].last == "1"


def test_a_text_is_a_number_only_where_it_is_written_as_one(tmp_path):
    names = ["007", "1_000", "1e5x", "-7", "12345678901", "0.5123456789", "1e-3", "nan", " 8", "+1", "0x10"]
    make_run(tmp_path / "run", [1.0])
    (tmp_path / "run/tables/own.csv").write_text("name,\n" + "".join(f"{name},\n" for name in names))
    rows = {row[0].text: row[0] for row in shown(tmp_path / "run").table("name")}
    assert rows.keys() == {*names} - {"0.5123456789", "1e-3"} | {"0.512346", "0.001"}
    assert {text: cell.sort for text, cell in rows.items() if cell.sort is not None} == {
        "-7": "-7.0",
        "12345678901": "12345678901.0",
        "0.512346": "0.5123456789",
        "0.001": "0.001",
    }


# -- TensorBoard -------------------------------------------------------------------------------------------------------


@pytest.fixture
def board(tmp_path):
    """The folder of a TensorBoardLogger, which leaves nothing but its event file."""
    pytest.importorskip("tensorboardX")
    logger = TensorBoardLogger(tmp_path / "runs", name="board", version=0)
    for step in range(5):
        logger.log_metrics({"loss": 1.0 / (step + 1), "epoch": 0}, step)
    logger.log_metrics({"acc": 0.5}, 4)
    logger.experiment.add_histogram("weights", [1.0, 2.0], 4)
    logger.finalize("success")
    return tmp_path / "runs"


def test_event_files_of_tensorboard_are_read(board):
    found = shown(board)
    [row] = found.table("run", "status")
    assert [cell.text for cell in row] == ["board/version_0", "unknown", "0.5", "0.2"]
    [path] = found.curve("loss").paths
    assert len(path) == 5
    assert {series.curve for series in found.series} == {"acc", "loss"}


def test_an_event_file_is_read_as_far_as_it_goes(board):
    [file] = board.rglob(event_files.PATTERN)
    whole = file.read_bytes()
    counts = []
    for length in range(0, len(whole) + 1, 7):
        file.write_bytes(whole[:length])
        curves = {}
        assert event_files.event_scalars(file, curves) == 0
        counts.append(len(curves.get("loss", ())))
    assert counts == sorted(counts)
    assert {*counts} >= {0, 1, 2, 3, 4}
    file.write_bytes(whole[: len(whole) // 2].replace(b"loss", b"\xff\xff\xff\xff"))
    assert event_files.event_scalars(file, {}) > 0, "text that is none is a record that is lost"


def test_a_run_that_was_resumed_goes_on_in_a_second_event_file(board):
    [file] = board.rglob(event_files.PATTERN)
    file.rename(file.with_name("events.out.tfevents.1.host"))
    logger = TensorBoardLogger(board, name="board", version=0)
    for step in range(5, 8):
        logger.log_metrics({"loss": 0.1}, step)
    logger.finalize("success")
    [run] = read(board).runs
    assert [step for step, _ in run.curves["loss"]] == list(range(8))
    assert run.metrics["loss"] == pytest.approx(0.1)


def test_event_files_that_nothing_can_read_are_told_of(board, monkeypatch):
    monkeypatch.setattr(event_files, "_messages", lambda: None)
    found = shown(board)
    assert found.series == []
    assert "What is only in TensorBoard's own files is not shown: pip install tensorboardX" in found.text


def test_a_scalar_may_be_a_tensor():
    messages = pytest.importorskip("tensorboardX.proto.summary_pb2")
    plain = messages.Summary.Value(tag="a", simple_value=0.5)
    listed, packed, text = (messages.Summary.Value(tag="a") for _ in range(3))
    listed.tensor.dtype = packed.tensor.dtype = 1
    listed.tensor.float_val.append(0.5)
    packed.tensor.tensor_content = struct.pack("<f", 0.5)
    text.tensor.dtype = 7
    assert [event_files._number(value) for value in (plain, listed, packed, text)] == [0.5, 0.5, 0.5, None]


def test_of_a_curve_in_two_files_the_finer_one_is_drawn(tmp_path):
    make_run(tmp_path / "run", [1.0, 3.0])
    logged = tmp_path / "run/lightning_logs/version_0"
    logged.mkdir(parents=True)
    (logged / "metrics.csv").write_text("epoch,step,sam/norm\n0,0,1\n0,1,2\n0,2,3\n")
    [path] = shown(tmp_path / "run").curve("sam/norm").paths
    assert len(path) == 3


def test_what_lies_in_an_artifact_or_was_repeated_is_not_the_run(tmp_path):
    make_run(tmp_path / "run", [1.0])
    model = tmp_path / "run/artifacts/ema/model"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"hidden": 768}')
    (model / "scalars.csv").write_text("step,epoch,key,value\n0,0,foreign,1\n")
    make_run(tmp_path / "run/rerun", [7.0, 8.0, 9.0])
    [series] = shown(tmp_path / "run").series
    assert (series.curve, len(series.dots), series.paths) == ("sam/norm", 1, [])


def test_a_saved_model_is_not_what_was_attached(tmp_path):
    make_run(tmp_path / "run", [1.0], methods={})
    for folder in (tmp_path / "run", tmp_path / "run/checkpoints/model"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text('{"hidden": 768}')
    assert read(tmp_path / "run").runs[0].methods == {}
    # What a tracker below it has written is: a script may attach a method itself.
    make_run(tmp_path / "run/lightning_logs/version_0", [1.0])
    (tmp_path / "run/lightning_logs/version_0/config.json").write_text('{"sam": {"rho": 0.05}}')
    assert read(tmp_path / "run").runs[0].methods == {"sam": {"rho": 0.05}}


def test_a_file_of_the_users_is_not_taken_for_a_record(tmp_path):
    make_run(tmp_path / "run", [1.0])
    (tmp_path / "run/run_settings.json").write_text("{}")
    [run] = read(tmp_path / "run").runs
    assert (run.status, run.notes) == ("finished", [])


def test_files_that_cannot_be_read_are_told_of_and_hide_nothing(tmp_path):
    make_run(tmp_path / "run", [1.0, 2.0])
    (tmp_path / "run/figures/sam/lost_step1.png").symlink_to("nowhere.png")
    endless = '"' + "x" * 200_000
    (tmp_path / "run/tables/sam/texts_step1.csv").write_text(f"text\n{endless}\n")
    with (tmp_path / "run/scalars.csv").open("a") as file:
        file.write(f"2,0,{endless}")
    [run] = read(tmp_path / "run").runs
    assert run.curves["sam/norm"] == [(0.0, 1.0), (1.0, 2.0)]
    assert (len(run.tables), len(run.pictures)) == (2, 1)
    for said in ("lost_step1.png cannot be read", "texts_step1.csv cannot be read", "scalars.csv: 1 line could not"):
        assert sum(said in note for note in run.notes) == 1, run.notes


# -- comparisons -------------------------------------------------------------------------------------------------------


def test_a_comparison_is_shown_as_one(comparison):
    found = shown(comparison)
    assert [[cell.text for cell in row] for row in found.table("setting", "mean")] == [
        ["plain", "0.512346"],
        ["sam:rho=0.1", "0.55"],
    ]
    assert found.table("setting", "mean")[0][1].title == "0.5123456789"
    assert '<th scope="col" class="number"><button type="button">mean' in page(read(comparison))
    names = [row[0].text for row in found.table("run", "status")]
    assert names == [f"{setting}, seed {seed}" for setting in ("plain", "sam:rho=0.1") for seed in (0, 1)]
    assert "thunderstone compare 'a b'" in found.text
    assert "1 of 4 runs failed" in found.text
    assert found.text.count("ValueError: no luck") >= 2, "as the reason, and as the end of the log"


def test_what_the_table_of_a_comparison_says_of_its_seeds_is_said_here_too(comparison):
    lines = [json.loads(line) for line in (comparison / "runs.jsonl").read_text().splitlines()]
    for line in lines:
        line["seeds_overridden"] = [42]
        line["metrics"] = {"val_acc": 0.5}
    (comparison / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    description = json.loads((comparison / "comparison.json").read_text())
    description.update(mode="max", mode_guessed=True, metric="val_acc")
    (comparison / "comparison.json").write_text(json.dumps(description))
    text = shown(comparison).text
    assert "The script calls seed_everything(42), and got each run's own seed instead." in text
    assert "Every seed of sam:rho=0.1 gave the same value" in text
    assert "larger was taken, and --mode min takes the other." in text


def test_seeds_of_a_setting_share_a_colour_and_a_box(comparison):
    html = page(read(comparison))
    assert re.findall(r'data-runs="([^"]*)"', html) == ["0 1", "2 3"]
    assert re.findall(r'class="series (k\d)', html) == ["k0", "k0", "k1", "k1"]


def test_a_description_that_is_no_object_is_refused_by_name(comparison, capsys):
    path = comparison / "comparison.json"
    for content in ("[1]", "3", "null", '"text"', '{"schema": 1, "sett', "\0"):
        path.write_text(content)
        assert main(["report", str(comparison)]) == 2, content
        assert f"report: {path} " in capsys.readouterr().err


def test_of_a_description_everything_is_shown_but_what_is_of_the_wrong_type(comparison):
    path = comparison / "comparison.json"
    description = json.loads(path.read_text())
    for name, value in (
        ("settings", 3),
        ("settings", ["plain", ["sam"]]),
        ("settings", {"plain": 1}),
        ("seeds", 7),
        ("seeds", ["first"]),
        ("metric", ["val_acc"]),
        ("mode_guessed", "perhaps"),
        ("command", [1]),
        ("directory", 5),
    ):
        path.write_text(json.dumps({**description, name: value}))
        report = read(comparison)
        assert [run.name for run in report.runs][:2] == ["plain, seed 0", "plain, seed 1"]
        assert len(report.tables[0].rows) == 2
        [note] = [note for note in report.notes if "comparison.json" in note]
        assert f"comparison.json: {name} is left out: Input should be a valid " in note
    assert note in Page(page(report)).text


def test_a_table_of_a_comparison_that_cannot_be_read_hides_nothing(comparison):
    (comparison / "summary.csv").write_bytes(b'setting,mean\n"\xff' + b"x" * 200_000)
    report = read(comparison)
    assert len(report.runs) == 4
    assert "summary.csv cannot be read: field larger than field limit (131072)." in report.notes


def test_a_line_of_a_comparison_that_is_of_no_run_is_refused_by_number(comparison):
    path = comparison / "runs.jsonl"
    first, second, *others = path.read_text().splitlines()
    for name, value in {"setting": ["plain"], "seed": "x", "folder": 3, "metrics": {"val_acc": None}}.items():
        path.write_text("\n".join([first, json.dumps({**json.loads(second), name: value}), *others]))
        with pytest.raises(RequestError, match=rf"runs\.jsonl: line 2 is not of a run: {name}.* is .*HINT: take the"):
            read(comparison)


# -- what is not there -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["runs", "comparison"])
def test_the_page_refers_to_nothing_outside_of_itself(source, request):
    html = page(read(request.getfixturevalue(source)))
    found = Page(html)
    assert all(reference.startswith("data:image/png;base64,") for reference in found.references)
    assert NETWORK.search(re.sub(r"data:image/png;base64,[\w+/=]*", "", html)) is None
    assert "default-src 'none'" in html
    assert NETWORK.search('<img src="https://example.org/x.png">'), "the pattern would see one"


def test_what_a_run_wrote_is_text_and_never_markup(tmp_path):
    make_run(tmp_path / "run", [1.0], methods={HOSTILE: {HOSTILE: HOSTILE}}, command=[HOSTILE], precision=HOSTILE)
    found = shown(tmp_path / "run")
    assert len(found.scripts) == 1
    assert "alert" not in found.scripts[0]
    assert found.text.count(HOSTILE) >= 4


def test_the_page_is_made_for_phones_and_for_the_dark(runs):
    html = page(read(runs))
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert "@media (prefers-color-scheme: dark)" in html
    assert html.startswith("<!DOCTYPE html>\n<html lang=")


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_page_and_says_where(runs, tmp_path, capsys):
    assert main(["report", str(runs)]) == 0
    assert capsys.readouterr().out == f"2 runs in {runs / 'report.html'}\n"
    assert main(["report", str(runs), "-o", str(tmp_path / "new/page.html")]) == 0
    assert (tmp_path / "new/page.html").read_bytes() == (runs / "report.html").read_bytes()


def test_a_folder_that_is_not_there_gets_the_nearest(runs, capsys):
    assert main(["report", str(runs.with_name("run"))]) == 2
    assert "Did you mean 'runs'?" in capsys.readouterr().err


def test_a_folder_without_a_run_is_told_what_is_one(tmp_path):
    with pytest.raises(RequestError, match=r"holds no run\. HINT: give a runs/ folder"):
        read(tmp_path)


def test_a_place_that_cannot_be_written_to_is_refused(runs, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["report", str(runs), "-o", str(tmp_path / "file/page.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_comparison_of_another_version_is_refused(comparison):
    (comparison / "runs.jsonl").write_text(json.dumps({"schema": 9}) + "\n")
    with pytest.raises(RequestError, match="another version of Thunderstone"):
        read(comparison)
