"""A comparison's table, on the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

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
    text = (
        f"{request.metric} at the end of the run ({larger} is better): mean ± standard deviation over {count}. The "
        f"difference from {summaries[0].setting} is the mean over runs of the same seed, with its bootstrap interval. "
        "Time is that in fit and passes are backward passes, medians of ratios of the same seed."
    )
    if 1 < most < _FEW_SEEDS:
        text += f" An interval from {count} is too narrow."
    return " ".join([text, *notes])


def table(summaries: Sequence[Summary], request: Request, notes: Sequence[str] = ()) -> Table:
    """The table for a terminal."""
    shown = Table(
        box=SIMPLE_HEAD,
        caption=caption(summaries, request, notes),
        caption_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for number, column in enumerate(columns(request.metric, summaries[0].setting)):
        # Numbers are not broken over two lines; a long setting is.
        shown.add_column(
            column, justify="right" if number else "left", vertical="bottom", no_wrap=number > 0, overflow="fold"
        )
    leading = best(summaries, request.mode)
    for summary, row in zip(summaries, rows(summaries), strict=True):
        shown.add_row(*row, style="bold" if summary.setting == leading else None)
    return shown


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
