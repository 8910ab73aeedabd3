"""Curves as inline SVG, drawn here: the page needs no library, and its colours follow the reader's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from thunderstone.report.model import Point, ShownRun, ShownTable

WIDTH, HEIGHT = 480, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 10, 10, 30
_MOST_POINTS = 1200


@dataclass(frozen=True)
class Line:
    """One run's curve in a chart.

    Attributes:
        run: The run's name.
        index: The run's place in the report, by which the page's legend finds its lines.
        colour: Number of its colour, from 0.
        paths: Points of its connected parts as SVG wants them; a value that is no finite number is a gap.
        dots: Points of parts that are a single one.
        last: The last value as text.
        smallest: The smallest value and its step; None where no value is finite.
        largest: The same of the largest.
        end: The last value and its step.
    """

    run: str
    index: int
    colour: int
    paths: Sequence[str]
    dots: Sequence[tuple[float, float]]
    last: str
    smallest: Point | None
    largest: Point | None
    end: Point


@dataclass(frozen=True)
class Chart:
    """All curves of one name. Ticks are pairs of a place and its text."""

    name: str
    lines: Sequence[Line]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    thinned: bool


def charts(runs: Sequence[ShownRun]) -> list[Chart]:
    """A chart for every name under which some run has logged numbers, by name."""
    colours = colours_of(runs)
    names = sorted({name for run in runs for name in run.curves})
    return [_chart(name, runs, colours) for name in names]


def colours_of(runs: Sequence[ShownRun]) -> Mapping[str, int]:
    """The number of the colour of every group, in order of appearance."""
    return {group: number for number, group in enumerate(dict.fromkeys(run.group for run in runs))}


def _chart(name: str, runs: Sequence[ShownRun], colours: Mapping[str, int]) -> Chart:
    # By step alone: of two values of one step the later stays the later.
    curves = [(index, run, sorted(run.curves[name], key=_step)) for index, run in enumerate(runs) if name in run.curves]
    points = [point for _, _, curve in curves for point in curve if math.isfinite(point[1])]
    x_low, x_high = _limits([x for x, _ in points])
    y_low, y_high = _limits([y for _, y in points])
    x_scale = (WIDTH - _LEFT - _RIGHT) / (x_high - x_low)
    y_scale = (HEIGHT - _TOP - _BOTTOM) / (y_high - y_low)

    def place(point: Point) -> tuple[float, float]:
        return round(_LEFT + (point[0] - x_low) * x_scale, 1), round(HEIGHT - _BOTTOM - (point[1] - y_low) * y_scale, 1)

    lines = []
    for index, run, curve in curves:
        parts = [[place(point) for point in part] for part in _parts(thin(curve))]
        paths = [" ".join(f"{x},{y}" for x, y in part) for part in parts if len(part) > 1]
        dots = [part[0] for part in parts if len(part) == 1]
        finite = [point for point in curve if math.isfinite(point[1])]
        smallest = min(finite, key=_value, default=None)
        largest = max(finite, key=_value, default=None)
        last = f"{curve[-1][1]:.6g}"
        lines.append(Line(run.name, index, colours[run.group], paths, dots, last, smallest, largest, curve[-1]))
    x_ticks = [(place((x, y_low))[0], text) for x, text in _ticks(x_low, x_high)]
    y_ticks = [(place((x_low, y))[1], text) for y, text in _ticks(y_low, y_high)]
    return Chart(name, lines, x_ticks, y_ticks, any(len(curve) > _MOST_POINTS for _, _, curve in curves))


def extremes(chart: Chart) -> ShownTable:
    """The smallest, the largest and the last value of every run's curve, and the steps of the first two.

    They are those of all values, also where only some are drawn.
    """
    rows = [
        [
            line.run,
            *((line.smallest[1], line.smallest[0]) if line.smallest else (None, None)),
            *((line.largest[1], line.largest[0]) if line.largest else (None, None)),
            line.end[1],
        ]
        for line in chart.lines
    ]
    return ShownTable(chart.name, ("run", "smallest", "at step", "largest", "at step", "last"), rows)


def _step(point: Point) -> float:
    return point[0]


def _value(point: Point) -> float:
    return point[1]


def thin(curve: Sequence[Point]) -> list[Point]:
    """At most `_MOST_POINTS` points of a curve, among them the smallest and the largest value of every stretch.

    Peaks are what one looks for in a long curve, and an average would hide them. A short curve stays as it is.
    """
    if len(curve) <= _MOST_POINTS:
        return list(curve)
    stretches = _MOST_POINTS // 2 - 1
    kept = {0, len(curve) - 1}
    for number in range(stretches):
        begin, end = number * len(curve) // stretches, (number + 1) * len(curve) // stretches
        # A value that is no number is never the largest, and cannot be compared.
        finite = [index for index in range(begin, end) if math.isfinite(curve[index][1])]
        if finite:
            kept.add(min(finite, key=lambda index: curve[index][1]))
            kept.add(max(finite, key=lambda index: curve[index][1]))
        else:
            kept.add(begin)
    return [curve[index] for index in sorted(kept)]


def _parts(curve: Sequence[Point]) -> list[list[Point]]:
    parts: list[list[Point]] = [[]]
    for point in curve:
        if math.isfinite(point[1]):
            parts[-1].append(point)
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Where an axis begins and ends: a little beyond the values, and never in one place."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if low == high:
        margin = abs(low) * 0.1 or 1.0
        return low - margin, high + margin
    return low, high


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    found = [float(value) for value in MaxNLocator(nbins=5).tick_values(low, high) if low <= value <= high]
    return [(value, f"{value:g}" if abs(value) > (high - low) * 1e-9 else "0") for value in found]
