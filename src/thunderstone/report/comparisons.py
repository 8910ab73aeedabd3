"""A comparison's folder: its runs, its table and its figure."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from thunderstone.comparison import results as log
from thunderstone.comparison.launchers import STDERR
from thunderstone.comparison.notes import notes
from thunderstone.comparison.schedule import last_lines
from thunderstone.errors import RequestError
from thunderstone.report.folders import read_folder
from thunderstone.report.model import Picture, Report, ShownTable

DESCRIPTION = "comparison.json"
_SHOWN_LINES = 20


def _heads(settings: Sequence[str]) -> dict[str, str]:
    """What the columns of `summary.csv` are called for a reader, where the name does not say it."""
    return {
        "spread": "standard deviation",
        "difference": f"against {settings[0]}" if settings else "difference",
        "low": "95% from",
        "high": "95% to",
        "time": "time ×",
        "passes": "passes ×",
        "not_finite": "not finite",
    }


def is_comparison(folder: Path) -> bool:
    """Whether `thunderstone compare` has written to the folder."""
    return (folder / DESCRIPTION).is_file() and (folder / log.LOG).is_file()


def read_comparison(folder: Path) -> Report:
    """Everything of a comparison.

    Raises:
        RequestError: Its files cannot be understood.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"report: {folder / DESCRIPTION} cannot be read: {type(error).__name__}: {error}") from error
    results = {result.key: result for result in log.read(folder / log.LOG)}
    order = description.get("settings", [])
    keys = sorted(results, key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key))
    runs = []
    for key in keys:
        result = results[key]
        run = read_folder(folder / result.folder, f"{result.setting}, seed {result.seed}", result.setting)
        run.status, run.reason = result.status, result.reason
        run.metrics = {**run.metrics, **result.metrics}
        run.command = run.command or result.command
        for name in ("fit_seconds", "passes", "steps"):
            if getattr(result, name) is not None:
                run.facts[name] = getattr(result, name)
        if not result.finished:
            run.notes += last_lines(folder / result.folder / STDERR, _SHOWN_LINES)
        runs.append(run)
    title = f"{description.get('metric', 'Comparison')}: {' · '.join(order)}"
    report = Report(title, runs, command=description.get("command", ()))
    report.directory = str(description.get("directory", ""))
    # The table is of these; runs that were asked for earlier are in the folder too.
    seeds = description.get("seeds", [seed for _, seed in keys])
    compared = [results[key] for key in keys if key[0] in order and key[1] in seeds]
    guessed = description.get("mode") if description.get("mode_guessed") else None
    report.notes += notes(compared, str(description.get("metric")), guessed)
    summary = folder / "summary.csv"
    if summary.is_file():
        with summary.open(newline="", encoding="utf-8") as file:
            names, *rows = list(csv.reader(file)) or [[]]
        head = [_heads(order).get(name, name) for name in names]
        report.tables.append(ShownTable(f"{description.get('metric')} by setting", head, rows))
    picture = folder / "comparison.png"
    if picture.is_file():
        report.pictures.append(Picture("The comparison", picture.read_bytes()))
    return report
