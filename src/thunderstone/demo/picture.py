"""The demo's picture: learning curves above; sharpness and cost below."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, StrMethodFormatter

from thunderstone.demo.digits import EXAMPLES, WRONG
from thunderstone.demo.report import methods_in_words
from thunderstone.demo.results import RADII, RADIUS, Quantity, Result, Summary, summarise

# Okabe and Ito's palette, which the colour-blind can tell apart; line styles and labels say the same in greyscale.
_COLOURS = ("#555555", "#0072B2", "#D55E00", "#009E73")
_STYLES = ("-", "-", "--", ":")
_INK, _MUTED, _GRID = "#222222", "#666666", "#E4E4E4"


def draw(results: Sequence[Result], path: Path) -> None:
    """Write the picture as PNG (2200 × 1360 pixels)."""
    figure = Figure(figsize=(11, 6.8), dpi=200, facecolor="white")
    grid = figure.add_gridspec(
        2, 6, left=0.06, right=0.985, top=0.795, bottom=0.09, hspace=0.52, wspace=1.3, height_ratios=(1.25, 1)
    )
    ways = ("one way", "two ways", "three ways", "four ways")[len(_settings(results)) - 1]
    figure.text(0.02, 0.975, f"One network, {ways} to train it", size=16, weight="bold", color=_INK, va="top")
    figure.text(0.02, 0.925, _subtitle(results), size=10, color=_MUTED, va="top", linespacing=1.4)
    test, memorised = figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])
    _curves(test, results, lambda result: result.test_accuracy)
    _title(test, "Accuracy on test images")
    _curves(memorised, results, lambda result: result.memorised)
    _title(memorised, "Wrong training labels learnt by heart")
    summaries = summarise(results)
    _rises(figure.add_subplot(grid[1, :2]), results)
    eigenvalues, costs = figure.add_subplot(grid[1, 2:4]), figure.add_subplot(grid[1, 4:])
    _bars(eigenvalues, summaries, lambda summary: summary.largest_eigenvalue, "{:.1f}")
    _title(eigenvalues, "Largest Hessian eigenvalue")
    _bars(costs, summaries, lambda summary: summary.cost, "{:.2f}×")
    _title(costs, "Time of a step, against plain")
    figure.savefig(path, format="png", metadata={"Software": "Thunderstone"})


def _curves(axes: Axes, results: Sequence[Result], curve: Callable[[Result], list[float]]) -> None:
    ends = []
    for number, setting in enumerate(_settings(results)):
        runs = [curve(result) for result in results if result.setting == setting]
        columns = list(zip(*runs, strict=True))
        epochs = range(1, len(columns) + 1)
        mean = [statistics.fmean(column) for column in columns]
        colour, style = _COLOURS[number % 4], _STYLES[number % 4]
        if len(runs) > 1:
            spread = [statistics.stdev(column) for column in columns]
            low = [max(0.0, middle - wide) for middle, wide in zip(mean, spread, strict=True)]
            high = [min(1.0, middle + wide) for middle, wide in zip(mean, spread, strict=True)]
            axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
        marker = "o" if len(columns) == 1 else None
        axes.plot(epochs, mean, style, marker=marker, color=colour, linewidth=2.2, solid_capstyle="round")
        ends.append((mean[-1], f"{setting}  {mean[-1]:.0%}", colour))
    last = len(curve(results[0]))
    for height, (_, text, colour) in zip(_apart([end[0] for end in ends], 0.085), ends, strict=True):
        axes.annotate(
            text, (1, height), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va="center", color=colour, size=10, weight="bold", annotation_clip=False,
        )  # fmt: skip
    axes.set_xlim(1, max(last, 2))
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("epoch", color=_MUTED)
    _plain_frame(axes)
    # Room for the labels at the curves' ends.
    box = axes.get_position()
    axes.set_position((box.x0, box.y0, box.width - 0.085, box.height))


def _rises(axes: Axes, results: Sequence[Result]) -> None:
    for number, setting in enumerate(_settings(results)):
        runs = [result.loss_rises for result in results if result.setting == setting]
        columns = list(zip(*runs, strict=True))
        colour, style = _COLOURS[number % 4], _STYLES[number % 4]
        if len(runs) > 1:
            low, high = [min(column) for column in columns], [max(column) for column in columns]
            axes.fill_between(RADII, low, high, color=colour, alpha=0.18, linewidth=0)
        mean = [statistics.fmean(column) for column in columns]
        axes.plot(RADII, mean, style, color=colour, linewidth=2.2, label=setting)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.axvline(RADIUS, color=_GRID, linewidth=1, zorder=0)
    axes.xaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 1.0]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("distance along the gradient", color=_MUTED)
    axes.legend(frameon=False, fontsize=9, loc="upper left", handlelength=1.8, labelspacing=0.3)
    _plain_frame(axes)
    _title(axes, "Rise of the training loss nearby")


def _bars(axes: Axes, summaries: Sequence[Summary], quantity: Callable[[Summary], Quantity], form: str) -> None:
    highest = max(max(quantity(summary).values) for summary in summaries)
    for number, summary in enumerate(summaries):
        shown, colour = quantity(summary), _COLOURS[number % 4]
        axes.barh(number, shown.mean, height=0.62, color=colour, alpha=0.85, linewidth=0)
        axes.scatter(
            shown.values, [number] * len(shown.values), s=22, color="white", edgecolor=colour, linewidth=1.3, zorder=3
        )
        right = max(shown.mean, *shown.values)
        axes.annotate(
            form.format(shown.mean), (right, number), xytext=(8, 0), textcoords="offset points", va="center",
            color=colour, size=10, weight="bold",
        )  # fmt: skip
    axes.set_yticks(range(len(summaries)), [summary.setting for summary in summaries])
    axes.set_ylim(len(summaries) - 0.45, -0.55)
    axes.set_xlim(min(0.0, *(min(quantity(summary).values) for summary in summaries)), 1.28 * max(highest, 1e-9))
    _plain_frame(axes)
    axes.tick_params(axis="y", length=0, labelcolor=_INK)
    axes.grid(axis="y", visible=False)


def _plain_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
    axes.tick_params(colors=_MUTED, labelsize=9, length=3)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", size=11, weight="bold", color=_INK, pad=8)


def _settings(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.setting for result in results))


def _subtitle(results: Sequence[Result]) -> str:
    seeds = len({result.seed for result in results})
    methods = methods_in_words(_settings(results))
    data = f"{EXAMPLES} training images of scikit-learn's digits, {WRONG:.0%} of them with a wrong label"
    shown = "lines and bars are means, bands the spread, dots single runs" if seeds > 1 else "so no spread is shown"
    line = f"{data}; {methods}." if methods else f"{data}."
    return f"{line}\n{seeds} seed{'s' if seeds > 1 else ''}: {shown}."


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """The heights moved as little as needed for labels at them not to overlap, in the same order."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    moved = [heights[index] for index in order]
    for _ in range(50):
        for lower in range(len(moved) - 1):
            overlap = gap - (moved[lower + 1] - moved[lower])
            if overlap > 0:
                moved[lower] -= overlap / 2
                moved[lower + 1] += overlap / 2
    result = [0.0] * len(heights)
    for position, index in enumerate(order):
        result[index] = moved[position]
    return result
