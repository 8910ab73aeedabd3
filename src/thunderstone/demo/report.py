"""The demo's table, on the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from thunderstone.demo.digits import EXAMPLES, WRONG
from thunderstone.demo.results import RADIUS, Summary
from thunderstone.demo.settings import SETTINGS

COLUMNS = (
    "Training",
    "Test accuracy",
    "Wrong labels learnt by heart",
    "Largest Hessian eigenvalue",
    f"Loss rise at distance {RADIUS}",
    "Time of a step",
)


def rows(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    """A row of text a setting, parallel to `COLUMNS`."""
    described = {setting.label: setting.described for setting in SETTINGS}
    return [
        (
            described.get(summary.setting, summary.setting),
            summary.test_accuracy.written(".1f", 100, " %"),
            summary.memorised.written(".0f", 100, " %"),
            summary.largest_eigenvalue.written(".1f"),
            summary.loss_rise.written(".2f"),
            f"{summary.cost.written('.2f')} ×",
        )
        for summary in summaries
    ]


def caption(summaries: Sequence[Summary]) -> str:
    """What the table's figures are: data, spread, measures."""
    count = max(len(summary.seeds) for summary in summaries)
    over = f"Mean ± standard deviation over {count} seeds" if count > 1 else "One seed, so nothing is said of spread"
    return (
        f"The same convolutional network, with batch normalisation, on {EXAMPLES} training images of scikit-learn's "
        f"digits, {WRONG:.0%} of them with a wrong label; tested on the other {1797 - EXAMPLES}, after the last epoch. "
        f"{over}. Sharpness is that of the training loss: the largest eigenvalue of its Hessian, and its mean rise one "
        f"gradient step of length {RADIUS} away. The time of a step is the median, against the plain one of that seed."
    )


def table(summaries: Sequence[Summary]) -> Table:
    """The table for a terminal."""
    shown = Table(box=SIMPLE_HEAD, caption=caption(summaries), caption_justify="left", header_style="bold")
    for number, column in enumerate(COLUMNS):
        shown.add_column(column, justify="right" if number else "left", min_width=7)
    best = max(range(len(summaries)), key=lambda index: summaries[index].test_accuracy.mean)
    for number, row in enumerate(rows(summaries)):
        shown.add_row(*row, style="bold" if number == best else None)
    return shown


def markdown(summaries: Sequence[Summary]) -> str:
    """The table and its caption as Markdown."""
    lines = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1)), *rows(summaries)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{caption(summaries)}\n"
