"""Measuring variants against a baseline in one run: interleaved, paired, with an interval."""

from __future__ import annotations

import argparse
import platform
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from thunderstone.tracking.provenance import hardware

RESULTS = Path(__file__).with_name("RESULTS.md")
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Line:
    """A row of a benchmark's table.

    Attributes:
        name: What was measured.
        cells: The row's other cells, as text.
    """

    name: str
    cells: tuple[str, ...]


def interleaved(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure every variant once a round, beginning with another one each round.

    What a machine does besides slows neighbours down alike, so that values of one round can be compared although those
    of different rounds cannot. One more round comes first and does not count.

    Args:
        variants: Name → measure, which returns a time or a size.
        rounds: How often.
    """
    names = list(variants)
    for name in names:
        variants[name]()
    values: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            values[name].append(variants[name]())
    return values


def paired(
    values: Sequence[float], baseline: Sequence[float], combine: Callable[[float, float], float] = lambda a, b: a / b
) -> tuple[float, float, float]:
    """Median over rounds of the ratio (or what `combine` makes) to the baseline, and its 95% bootstrap interval."""
    compared = np.array([combine(value, base) for value, base in zip(values, baseline, strict=True)])
    drawn = np.random.default_rng(0).integers(len(compared), size=(_RESAMPLES, len(compared)))
    low, high = np.quantile(np.median(compared[drawn], axis=1), [0.025, 0.975])
    return float(np.median(compared)), float(low), float(high)


def with_interval(values: tuple[float, float, float], form: str = ".3f", unit: str = "") -> str:
    """``1.023 (1.020 to 1.027)``."""
    middle, low, high = values
    return f"{middle:{form}}{unit} ({low:{form}} to {high:{form}})"


def median(values: Sequence[float], form: str, unit: str, scale: float = 1.0) -> str:
    """The median as text."""
    return f"{statistics.median(values) * scale:{form}} {unit}"


def verdict(measured: tuple[float, float, float], limit: float) -> str:
    """Whether a value with its interval keeps a limit, in words that go into a table."""
    value, low, high = measured
    if high <= limit:
        return f"within {limit:g}"
    if low > limit:
        return f"**above** {limit:g}"
    # The interval contains the limit: this run cannot tell.
    return f"{'within' if value <= limit else 'above'} {limit:g}, undecided"


def machine() -> str:
    """The machine and the versions in words; no names, no paths."""
    packages = ", ".join(f"{name} {_version(name)}" for name in ("torch", "lightning", "thunderstone"))
    return f"{hardware()}, Python {platform.python_version()}, {packages}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def arguments(description: str, rounds: int, **switches: str) -> argparse.Namespace:
    """The options every benchmark has: rounds, whether to write the result down, and switches (name: help)."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="how often everything is measured (%(default)s)")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md, in place of an older one")
    for name, meaning in switches.items():
        parser.add_argument(f"--{name}", action="store_true", help=meaning)
    return parser.parse_args()


def report(title: str, columns: Sequence[str], lines: Sequence[Line], notes: str, write: bool) -> None:
    """Print the table, and put it into RESULTS.md under its title if asked to."""
    table = Table(title=title, title_justify="left", caption=f"{notes}\n{machine()}", caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for line in lines:
        table.add_row(line.name, *(cell.replace("**", "") for cell in line.cells))
    Console().print(table)
    if write:
        rows = [tuple(columns), ("---", *["---:"] * (len(columns) - 1)), *((line.name, *line.cells) for line in lines)]
        text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        _put(title, f"{notes}\n\n{text}\n\n{machine()}.\n")


def _put(title: str, body: str) -> None:
    text = RESULTS.read_text(encoding="utf-8")
    section = f"## {title}\n\n{body}"
    parts = re.split(r"(?m)^(?=## )", text)
    for number, part in enumerate(parts):
        if part.startswith(f"## {title}\n"):
            parts[number] = section if number == len(parts) - 1 else f"{section}\n"
            break
    else:
        parts[-1] = parts[-1].rstrip("\n") + "\n\n"
        parts.append(section)
    RESULTS.write_text("".join(parts), encoding="utf-8")
