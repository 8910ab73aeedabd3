"""Scalars and tables from the CSV files of a run, also of one that was killed while it wrote."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from thunderstone.report.model import Point, ShownTable


def long_scalars(path: Path, curves: dict[str, list[Point]]) -> int:
    """Add the values of a `scalars.csv` (step, epoch, key, value) to `curves`; how many lines could not be read."""
    lost = 0
    for row in _rows(path):
        try:
            key, point = row["key"], (float(row["step"]), float(row["value"]))
        except (KeyError, TypeError, ValueError):
            lost += 1
            continue
        curves.setdefault(key, []).append(point)
    return lost


def wide_scalars(path: Path, curves: dict[str, list[Point]]) -> int:
    """Add the values of the `metrics.csv` of a CSVLogger (a column a metric) to `curves`; how many lines were lost."""
    lost = 0
    for row in _rows(path):
        try:
            step = float(row["step"])
            values = {key: float(text) for key, text in row.items() if key not in ("step", "epoch") and text}
        except (KeyError, TypeError, ValueError):
            lost += 1
            continue
        for key, value in values.items():
            curves.setdefault(key, []).append((step, value))
    return lost


def table(path: Path, title: str) -> ShownTable | None:
    """A CSV file with a head as a table; None for an empty file.

    Raises:
        csv.Error: A cell is longer than the reader takes.
        OSError: The file cannot be read.
    """
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = list(csv.reader(_without_nul(file)))
    if not rows:
        return None
    head, *rest = rows
    return ShownTable(title, head, [row for row in rest if len(row) == len(head)])


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        try:
            yield from csv.DictReader(_without_nul(file))
        except csv.Error:
            yield {}  # not CSV from here on: as a line that cannot be read


def _without_nul(file: Iterator[str]) -> Iterator[str]:
    # A machine that went down while it wrote leaves zeros where the text should be, which the reader does not take.
    return (line.replace("\0", "") for line in file)
