"""The demo's table, on the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Container, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from thunderstone.demo.digits import EXAMPLES, WRONG
from thunderstone.demo.results import BASELINE, RADIUS, Summary
from thunderstone.demo.settings import SETTINGS

COLUMNS = (
    "Training",
    "Test\naccuracy, %",
    "Wrong labels\nlearnt, %",
    "Hessian\neigenvalue",
    f"Loss rise\nat {RADIUS}",
    "Step time,\n× plain",
)


def rows(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    """A row of text a setting, parallel to `COLUMNS`."""
    return [
        (
            summary.setting,
            summary.test_accuracy.written(".1f", 100),
            summary.memorised.written(".0f", 100),
            summary.largest_eigenvalue.written(".1f"),
            summary.loss_rise.written(".2f"),
            "1" if summary.setting == BASELINE else summary.cost.written(".2f"),
        )
        for summary in summaries
    ]


def caption(summaries: Sequence[Summary]) -> str:
    """What the table's figures are: data, spread, measures."""
    count = max(len(summary.seeds) for summary in summaries)
    over = f"Mean ± standard deviation over {count} seeds" if count > 1 else "One seed, so no spread"
    if methods := methods_in_words([summary.setting for summary in summaries]):
        over += f"; {methods}"
    return (
        f"One convolutional network with batch normalisation, trained on {EXAMPLES} images of scikit-learn's digits, "
        f"{WRONG:.0%} of them with a wrong label, and tested on all others after the last epoch. {over}. Sharpness is "
        "that of the training loss: the largest eigenvalue of its Hessian, and its mean rise (nats) one step of length "
        f"{RADIUS} along the gradient away. The time of a step is a median, against the plain one of the same seed."
    )


def methods_in_words(labels: Container[str]) -> str:
    """The methods among `labels` with their arguments, e.g. ``SAM with rho=0.5, ASAM with rho=2.5``."""
    return ", ".join(
        f"{setting.label} with {' and '.join(f'{name}={value}' for name, value in setting.arguments.items())}"
        for setting in SETTINGS
        if setting.arguments and setting.label in labels
    )


def table(summaries: Sequence[Summary]) -> Table:
    """The table for a terminal."""
    shown = Table(
        box=SIMPLE_HEAD, caption=caption(summaries), caption_justify="left", padding=(0, 0, 0, 1), pad_edge=False
    )
    for number, column in enumerate(COLUMNS):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True, vertical="bottom")
    best = max(range(len(summaries)), key=lambda index: summaries[index].test_accuracy.mean)
    for number, row in enumerate(rows(summaries)):
        shown.add_row(*row, style="bold" if number == best else None)
    return shown


def markdown(summaries: Sequence[Summary]) -> str:
    """The table and its caption as Markdown."""
    lines = [
        tuple(column.replace("\n", " ") for column in COLUMNS),
        ("---", *["---:"] * (len(COLUMNS) - 1)),
        *rows(summaries),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{caption(summaries)}\n"
