"""A comparison's table, on the terminal and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from thunderstone.comparison.request import Request
from thunderstone.comparison.statistics import Summary, best

_NOTHING = "–"
_FEW_SEEDS = 5


def columns(metric: str, baseline: str) -> tuple[str, ...]:
    """The table's heads."""
    return ("Setting", metric, f"against {baseline}\n(95% interval)", "Time\n×", "Passes\n×", "Runs")


def rows(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    """A row of text a setting, parallel to `columns`."""
    return [
        (
            summary.setting,
            _number(summary.mean) + (f" ± {summary.spread:.2g}" if summary.spread is not None else ""),
            _signed(summary.difference)
            + (f" ({_signed(summary.low)} to {_signed(summary.high)})" if summary.low is not None else ""),
            _NOTHING if summary.time is None else f"{summary.time:.2f}",
            _NOTHING if summary.passes is None else f"{summary.passes:.2f}",
            _runs(summary),
        )
        for summary in summaries
    ]


def caption(summaries: Sequence[Summary], request: Request, notes: Sequence[str] = ()) -> str:
    """What the table's figures are, and what must be known to read them."""
    most = max(summary.seeds for summary in summaries)
    count = f"{most} seed{'s' if most != 1 else ''}"
    larger = "larger" if request.mode == "max" else "smaller"
    if most > 1:
        shown = (
            f"mean ± standard deviation over {count}. The difference from {summaries[0].setting} is the mean over runs "
            "of the same seed, with its bootstrap interval"
        )
        ratios = ", medians of ratios of the same seed"
    else:
        shown = f"of {count}, so there is no spread. The difference is that from {summaries[0].setting}"
        ratios = f", divided by those of {summaries[0].setting}"
    text = (
        f"{request.metric} at the end of the run ({larger} is better): {shown}. Time is that in fit and passes are "
        f"backward passes{ratios}."
    )
    if 1 < most < _FEW_SEEDS:
        text += f" An interval from {count} is too narrow."
    return " ".join([text, *notes])


def table(
    summaries: Sequence[Summary], request: Request, notes: Sequence[str] = (), width: int | None = None
) -> RenderableType:
    """The table for a terminal.

    Args:
        summaries: A row each.
        request: What was asked for.
        notes: See `caption`.
        width: Of the terminal, in characters. Where a long setting leaves no room, intervals and failed runs go to
            lines of their own, and the setting is broken between its arguments; where that is not enough it has a
            number, and stands below the table. None for as much as it takes.
    """
    heads, cells = columns(request.metric, summaries[0].setting), rows(summaries)
    legend: list[str] = []
    if width is not None:
        cells, legend = _fitted(heads, cells, width)
    shown = Table(
        box=SIMPLE_HEAD,
        caption=Text(caption(summaries, request, notes), style="table.caption"),
        caption_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for number, column in enumerate(heads):
        shown.add_column(Text(column), justify="right" if number else "left", no_wrap=True, overflow="fold")
    leading = best(summaries, request.mode)
    for summary, row in zip(summaries, cells, strict=True):
        # As text: what stands in brackets would be taken for markup.
        shown.add_row(*map(Text, row), style="bold" if summary.setting == leading else None)
    return Group(shown, Text("\n".join(legend))) if legend else shown


def _fitted(
    heads: tuple[str, ...], cells: list[tuple[str, ...]], width: int
) -> tuple[list[tuple[str, ...]], list[str]]:
    """The cells, so that a row is no wider than the terminal if there is a way, and what their numbers stand for."""

    def room() -> int:
        taken = [
            max(cell_len(line) for row in [heads, *cells] for line in row[number].splitlines())
            for number in range(1, len(heads))
        ]
        return width - sum(taken) - 2 * len(taken) - 2  # two blanks between columns, and one at either edge

    longest = max(cell_len(row[0]) for row in cells)
    if longest > room():
        cells = [
            (setting, metric, gain.replace(" (", "\n("), *costs, runs.replace(", ", "\n"))
            for setting, metric, gain, *costs, runs in cells
        ]
    left = room()
    if longest <= left:
        return cells, []
    lines = [broken(row[0], left) for row in cells]
    legend: list[str] = []
    for number, setting in enumerate(lines):
        if max(map(len, setting)) > left:
            legend += broken(f"[{number}] {cells[number][0]}", width)
            lines[number] = [f"[{number}]"]
    return [("\n".join(setting), *row[1:]) for setting, row in zip(lines, cells, strict=True)], legend


def broken(setting: str, width: int) -> list[str]:
    """A setting in lines of at most `width` characters, broken after `:`, `,` or `+` and, where need be, after `=`.

    A single name or value that is longer stays in one line.
    """
    lines = [""]
    for part in re.findall(r"[^:,+]*[:,+]?", setting):
        pieces = [part] if len(part) <= width else re.findall(r"[^=]*=?", part)
        for piece in pieces:
            if lines[-1] and len(lines[-1]) + len(piece) > width:
                lines.append("")
            lines[-1] += piece
    return lines


def markdown(summaries: Sequence[Summary], request: Request, notes: Sequence[str] = ()) -> str:
    """The table and its caption as Markdown."""
    heads = tuple(head.replace("\n", " ") for head in columns(request.metric, summaries[0].setting))
    lines = [heads, ("---", *["---:"] * (len(heads) - 1)), *rows(summaries)]
    shown = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines]
    return "\n".join(f"| {line} |" for line in shown) + f"\n\n{caption(summaries, request, notes)}\n"


def _runs(summary: Summary) -> str:
    text = str(summary.seeds)
    if summary.failed:
        text += f", {summary.failed} failed"
    if summary.not_finite:
        text += f", {summary.not_finite} not finite"
    return text


def _number(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.4g}"


def _signed(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:+.3g}"
