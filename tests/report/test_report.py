"""`thunderstone report`: what is on the page, and what is not."""

from __future__ import annotations

import base64
import json
import re

import pytest
from html_page import Page
from report_runs import HOSTILE, make_run

from thunderstone.cli.main import main
from thunderstone.errors import RequestError
from thunderstone.report.page import page
from thunderstone.report.reading import read

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


def test_seeds_of_a_setting_share_a_colour_and_a_box(comparison):
    html = page(read(comparison))
    assert re.findall(r'data-runs="([^"]*)"', html) == ["0 1", "2 3"]
    assert re.findall(r'class="series (k\d)', html) == ["k0", "k0", "k1", "k1"]


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
