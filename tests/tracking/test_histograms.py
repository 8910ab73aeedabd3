"""Histograms: what is counted, and how each place shows it."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from reporting_run import Regression, Reporting, trainer_for
from test_tensorboard import events

import thunderstone
from thunderstone import Histogram
from thunderstone.tracking.sink import TrackingWarning
from thunderstone.tracking.tracker import Tracker

numbers = st.lists(st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf]), min_size=1, max_size=50)


@given(values=numbers, bins=st.integers(1, 20))
def test_every_finite_value_is_in_the_interval_it_belongs_to(values: list[float], bins: int) -> None:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        with pytest.raises(ValueError, match="is a finite number"):
            Histogram(values, bins).count()
        return
    counted = Histogram(torch.tensor(values, dtype=torch.float64), bins).count()
    assert int(counted.counts.sum()) == len(finite)
    assert counted.not_finite == len(values) - len(finite)
    assert (counted.smallest, counted.largest) == (min(finite), max(finite))
    assert counted.total == pytest.approx(math.fsum(finite), rel=1e-9, abs=1e-3)
    assert counted.squares == pytest.approx(math.fsum(value * value for value in finite), rel=1e-9, abs=1e-9)
    # Each interval by itself; limits are rounded, so a value next to one may be counted on either side of it.
    for low, high, count in counted.table().rows[: len(counted.counts)]:
        slack = 1e-9 * (counted.largest - counted.smallest + 1)
        inside = sum(low + slack <= value < high - slack for value in finite)
        around = sum(low - slack <= value <= high + slack for value in finite)
        assert inside <= count <= around


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([[0.0, 1.0], [1.0, 4.0]], requires_grad=True),
        torch.tensor([0, 1, 1, 4]),
        torch.tensor([0.0, 1.0, 1.0, 4.0], dtype=torch.bfloat16),
        np.array([0.0, 1.0, 1.0, 4.0], dtype=np.float16),
        [0, 1, 1, 4],
    ],
    ids=["a graph", "integers", "bfloat16", "numpy", "a list"],
)
def test_every_kind_of_values(values: Any) -> None:
    counted = Histogram(values, bins=4).count()
    assert counted.counts.tolist() == [1, 2, 0, 1]
    assert counted.edges.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("bins", [0, 513, 2.0, True])
def test_bins_out_of_range_are_refused(bins: Any) -> None:
    with pytest.raises(ValueError, match=rf"Histogram\(bins={bins!r}\): a whole number from 1 to 512"):
        Histogram([1.0], bins)


def _report(reporting: Reporting) -> None:
    reporting.report("weights", Histogram(torch.tensor([0.0, 1.0, 1.0, 4.0, math.nan]), bins=4), within_step=True)


def test_a_folder_has_the_intervals_of_the_steps_that_are_logged(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    trainer_for(Reporting(step=_report), logger=logger, log_every_n_steps=4, max_epochs=1).fit(Regression())
    folder = Path(logger.log_dir) / "histograms" / "sharpened"
    assert sorted(path.name for path in folder.iterdir()) == ["weights_step3.csv", "weights_step7.csv"]
    with (folder / "weights_step3.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["low", "high", "count"],
        ["0.0", "1.0", "1"],
        ["1.0", "2.0", "2"],
        ["2.0", "3.0", "0"],
        ["3.0", "4.0", "1"],
        ["nan", "nan", "1"],
    ]


def test_tensorboard_has_a_histogram(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    trainer_for(Reporting(epoch_end=_report), logger=logger, log_every_n_steps=1, max_epochs=1).fit(Regression())
    [(step, value)] = [(step, value) for step, value in events(Path(logger.log_dir)) if value.HasField("histo")]
    shown = value.histo
    assert (step, value.tag) == (7, "sharpened/weights")
    assert (shown.min, shown.max, shown.num, shown.sum, shown.sum_squares) == (0, 4, 4, 6, 18)
    counts = dict(zip(shown.bucket_limit, shown.bucket, strict=True))
    assert {limit: count for limit, count in counts.items() if count} == {1: 1, 2: 2, 4: 1}


def test_values_that_cannot_be_counted_are_named_and_lost(tmp_path: Path) -> None:
    tracker = Tracker(trainer_for([], default_root_dir=tmp_path))
    for values, message in (([math.nan], "none of the histogram's 1 values"), (torch.tensor(1j), "complex")):
        record = thunderstone.Record("m" + message[:4], "h", Histogram(values), 0, 0)
        with pytest.warns(TrackingWarning, match=message):
            tracker.record(record)
    assert not (tmp_path / "runs").exists()
