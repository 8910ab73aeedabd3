"""A comparison's figure: every run, the settings' means with their intervals, and how the metric came about."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thunderstone.comparison.request import Request
from thunderstone.comparison.results import Result

# Okabe and Ito's palette, which the colour-blind can tell apart; after its colours, its line styles change.
_COLOURS = ("#555555", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
_STYLES = ("-", "--", ":", "-.")
_INK, _MUTED, _GRID = "#222222", "#666666", "#E4E4E4"


def draw(request: Request, results: Sequence[Result], path: Path) -> None:
    """Write the figure as PNG: the metric of every run at its end, and over the steps where it was logged often."""
    metric = request.metric
    curves = {
        setting.label: [
            curve
            for result in results
            if result.setting == setting.label and result.finished
            if (curve := read_curve(request.output / result.folder / "scalars.csv", metric))
        ]
        for setting in request.settings
    }
    with_curves = any(len(curve) > 1 for runs in curves.values() for curve in runs)
    height = 1.8 + 0.45 * len(request.settings) if not with_curves else max(4.2, 1.6 + 0.5 * len(request.settings))
    figure = Figure(figsize=(11 if with_curves else 7, height), dpi=160, facecolor="white", layout="constrained")
    all_axes = figure.subplots(1, 2 if with_curves else 1, squeeze=False)[0]
    _ends(all_axes[0], request, results)
    if with_curves:
        _curves(all_axes[1], curves, metric)
    figure.savefig(path, format="png", metadata={"Software": "Thunderstone"})


def read_curve(path: Path, key: str) -> list[tuple[int, float]]:
    """Step and finite value of one key of a `scalars.csv`, in order; empty where there is no such file or key."""
    if not path.exists():
        return []
    points = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row.get("key") == key:
                try:
                    point = (int(row["step"]), float(row["value"]))
                except (TypeError, ValueError):
                    continue  # half a line, of a run that was killed
                if math.isfinite(point[1]):
                    points.append(point)
    return points


def _ends(axes: Axes, request: Request, results: Sequence[Result]) -> None:
    for number, setting in enumerate(request.settings):
        runs = [result for result in results if result.setting == setting.label and result.finished]
        values = [run.metrics[request.metric] for run in runs if np.isfinite(run.metrics.get(request.metric, np.nan))]
        if not values:
            continue
        colour, mean = _COLOURS[number % len(_COLOURS)], statistics.fmean(values)
        if len(values) > 1:
            spread = statistics.stdev(values)
            axes.plot([mean - spread, mean + spread], [number, number], color=colour, linewidth=6, alpha=0.3)
        axes.scatter(values, [number] * len(values), s=26, color="white", edgecolor=colour, linewidth=1.4, zorder=3)
        axes.scatter([mean], [number], s=90, color=colour, marker="|", linewidth=2.5, zorder=4)
    axes.set_yticks(range(len(request.settings)), [_short(setting.label) for setting in request.settings])
    axes.set_ylim(len(request.settings) - 0.5, -0.5)
    several = any(len([run for run in results if run.setting == each.label]) > 1 for each in request.settings)
    shown = ": runs, mean, standard deviation" if several else ""
    axes.set_title(f"At the end{shown}", loc="left", size=10, color=_INK)
    _frame(axes)
    axes.set_xlabel(request.metric, color=_MUTED)
    axes.tick_params(axis="y", length=0, labelcolor=_INK)


def _curves(axes: Axes, curves: dict[str, list[list[tuple[int, float]]]], metric: str) -> None:
    for number, (label, runs) in enumerate(curves.items()):
        colour, style = _COLOURS[number % len(_COLOURS)], _STYLES[number // len(_COLOURS) % len(_STYLES)]
        by_step: dict[int, list[float]] = {}
        for step, value in (point for run in runs for point in run):
            by_step.setdefault(step, []).append(value)
        # Where some runs have ended the mean would be that of others.
        steps = [step for step, values in sorted(by_step.items()) if len(values) == len(runs)]
        if not steps:
            continue
        means = np.array([statistics.fmean(by_step[step]) for step in steps])
        if len(runs) > 1:
            spreads = np.array([statistics.stdev(by_step[step]) for step in steps])
            axes.fill_between(steps, means - spreads, means + spreads, color=colour, alpha=0.15, linewidth=0)
        axes.plot(steps, means, style, color=colour, linewidth=2, label=_short(label))
    shown = ": mean and standard deviation" if any(len(runs) > 1 for runs in curves.values()) else ""
    axes.set_title(f"During training{shown}", loc="left", size=10, color=_INK)
    axes.legend(frameon=False, fontsize=8)
    _frame(axes)
    axes.set_xlabel("step", color=_MUTED)
    axes.set_ylabel(metric, color=_MUTED)


def _frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
    axes.tick_params(colors=_MUTED, labelsize=9, length=3)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _short(label: str) -> str:
    return label if len(label) <= 32 else f"{label[:31]}…"
