"""A comparison's folder: its runs, its table and its figure."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel

from thunderstone.comparison import results as log
from thunderstone.comparison.launchers import STDERR
from thunderstone.comparison.notes import notes
from thunderstone.comparison.schedule import last_lines
from thunderstone.errors import RequestError
from thunderstone.report import csv_files
from thunderstone.report.folders import read_folder
from thunderstone.report.lenient import understood
from thunderstone.report.model import Picture, Report

DESCRIPTION = "comparison.json"
_SHOWN_LINES = 20


class _Description(BaseModel):
    """What is shown of a `comparison.json`."""

    settings: list[str] | None = None
    seeds: list[int] | None = None
    metric: str | None = None
    mode: str | None = None
    mode_guessed: bool = False
    command: list[str] = []
    directory: str = ""


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
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"report: {path} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise RequestError(
            f"report: {path} holds a {type(content).__name__}, not the description of a comparison. HINT: the same "
            "`thunderstone compare` writes it again, and keeps the runs that have finished"
        )
    description, said = understood(_Description, content, path.name)
    results = {result.key: result for result in log.read(folder / log.LOG)}
    settings = description.settings
    order = list(dict.fromkeys(label for label, _ in results)) if settings is None else settings
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
    metric = description.metric
    report = Report(f"{metric or 'Comparison'}: {' · '.join(order)}", runs, command=description.command)
    report.directory, report.notes = description.directory, said
    # The table is of these; runs that were asked for earlier are in the folder too.
    seeds = [seed for _, seed in keys] if description.seeds is None else description.seeds
    compared = [results[key] for key in keys if key[0] in order and key[1] in seeds]
    guessed = description.mode if description.mode_guessed else None
    report.notes += notes(compared, str(metric), guessed)
    _put_summary(report, folder, f"{metric or 'The metric'} by setting", _heads(order))
    return report


def _put_summary(report: Report, folder: Path, title: str, heads: dict[str, str]) -> None:
    summary, picture = folder / "summary.csv", folder / "comparison.png"
    try:
        table = csv_files.table(summary, title) if summary.is_file() else None
    except (OSError, csv.Error) as error:
        report.notes.append(f"{summary.name} cannot be read: {error}.")
        table = None
    if table is not None:
        report.tables.append(replace(table, columns=[heads.get(name, name) for name in table.columns]))
    try:
        if picture.is_file():
            report.pictures.append(Picture("The comparison", picture.read_bytes()))
    except OSError as error:
        report.notes.append(f"{picture.name} cannot be read: {error}.")
