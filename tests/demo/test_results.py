"""From runs to the table, the CSV file and the picture."""

from __future__ import annotations

import csv
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from thunderstone.demo.picture import _apart, draw
from thunderstone.demo.report import COLUMNS, markdown, table
from thunderstone.demo.results import RADII, Quantity, Result, summarise, write_csv


def _result(setting, seed, accuracy=0.9, seconds=0.004, epochs=3):
    return Result(
        setting=setting,
        seed=seed,
        test_accuracy=[accuracy] * epochs,
        memorised=[0.25] * epochs,
        largest_eigenvalue=4.0 + seed,
        loss_rises=[radius**2 for radius in RADII],
        step_seconds=seconds,
    )


RESULTS = [
    _result("plain", 0, 0.6, 0.004),
    _result("SAM", 0, 0.8, 0.008),
    _result("plain", 1, 0.7, 0.005),
    _result("SAM", 1, 0.9, 0.011),
]


def test_a_quantity_states_mean_and_sample_standard_deviation():
    quantity = Quantity((1.0, 2.0, 6.0))
    assert quantity.mean == 3.0
    assert quantity.spread == pytest.approx(7**0.5)
    assert quantity.written(".1f") == "3.0 ± 2.6"
    assert Quantity((0.5,)).spread is None
    assert Quantity((0.5,)).written(".0f", 100, " %") == "50 %"


def test_cost_is_against_the_plain_step_of_the_same_seed():
    plain, sam = summarise(RESULTS)
    assert (plain.setting, plain.seeds, plain.cost.values) == ("plain", (0, 1), (1.0, 1.0))
    assert sam.cost.values == pytest.approx((2.0, 2.2))
    assert sam.test_accuracy.values == (0.8, 0.9)
    assert sam.loss_rise.values == (0.25, 0.25)


def test_an_interrupted_demo_is_summarised_as_far_as_it_came():
    plain, sam = summarise(RESULTS[:3])
    assert plain.seeds == (0, 1)
    assert sam.seeds == (0,)
    assert sam.test_accuracy.written(".1f", 100) == "80.0"
    assert summarise([_result("SAM", 0)])[0].seeds == ()


def test_the_table_fits_a_narrow_terminal_and_agrees_with_its_markdown():
    summaries = summarise(RESULTS)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - closed with the console
    console.print(table(summaries))
    console.file.close()
    shown = console.export_text()
    written = markdown(summaries).splitlines()
    assert len(written[0].split("|")) == len(COLUMNS) + 2
    for value in ("65.0 ± 7.1", "85.0 ± 7.1", "25 ± 0", "4.5 ± 0.7", "0.25 ± 0.00", "2.10 ± 0.14"):
        assert value in shown
        assert value in "\n".join(written)
    assert "…" not in shown
    for text in (shown, markdown(summaries)):
        flat = " ".join(text.split())
        assert "40% of them with a wrong label" in flat
        assert "over 2 seeds; SAM with rho=0.5. Sharpness" in flat
        assert "Mean ± standard deviation over 2 seeds" in flat
    assert "One seed" in markdown(summarise(RESULTS[:2]))
    assert "rho" not in markdown(summarise(RESULTS[:1]))


def test_the_csv_file_holds_every_run(tmp_path):
    write_csv(tmp_path / "runs.csv", RESULTS)
    with (tmp_path / "runs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["setting"], row["seed"]) for row in rows] == [
        ("plain", "0"),
        ("SAM", "0"),
        ("plain", "1"),
        ("SAM", "1"),
    ]
    assert [float(row["test_accuracy"]) for row in rows] == [0.6, 0.8, 0.7, 0.9]
    assert float(rows[3]["step_milliseconds"]) == pytest.approx(11)


@pytest.mark.parametrize(
    "results", [RESULTS, RESULTS[:3], RESULTS[:1], [_result("plain", 0, epochs=1)]], ids=["all", "part", "one", "epoch"]
)
def test_the_picture_is_drawn_for_whatever_there_is(tmp_path, results):
    draw(results, tmp_path / "demo.png")
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (2200, 1360)
        colours = {colour for count, colour in picture.convert("RGB").getcolors(1 << 22) if count > 2000}
    assert len(colours) > 2


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_labels_are_moved_apart_and_keep_their_order(heights):
    moved = _apart(heights, 0.085)
    ordered = sorted(moved)
    assert all(upper - lower > 0.08 for lower, upper in pairwise(ordered))
    for first in range(len(heights)):
        for second in range(len(heights)):
            if heights[first] < heights[second]:
                assert moved[first] < moved[second]
    assert sum(moved) == pytest.approx(sum(heights), abs=1e-9)
