"""Runs from folders: those of `runs/`, of a CSVLogger, and of a comparison."""

from __future__ import annotations

import csv
import fnmatch
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from thunderstone.report import csv_files, event_files
from thunderstone.report.lenient import understood
from thunderstone.report.model import Picture, ShownRun
from thunderstone.tracking.run_record import NAME, read_record

_MARKS = (NAME, "scalars.csv", "metrics.csv")
_RECORD = re.compile(r"run(_\d+)?\.json")  # as `RunRecord.place` names them; others of a user's may begin so too
_READERS = {
    "scalars.csv": csv_files.long_scalars,
    "metrics.csv": csv_files.wide_scalars,
    event_files.PATTERN: event_files.event_scalars,
}
_FACTS = (
    "started",
    "ended",
    "wall_seconds",
    "processor_seconds",
    "seed",
    "epochs",
    "steps",
    "passes",
    "precision",
    "hardware",
    "threads",
    "git",
)


class _Record(BaseModel):
    """What is shown of a `run.json` beside its facts, which may be of any type."""

    status: str = "unknown"
    reason: str = ""
    methods: dict[str, Any] = {}
    versions: dict[str, str] = {}
    command: list[str] = []
    directory: str = ""
    metrics: dict[str, float] = {}  # "nan" and "inf" are texts in JSON


def run_folders(root: Path) -> Iterator[Path]:
    """The folders of runs in and below `root`, in order; none inside another."""
    for parent, folders, files in os.walk(root):
        if any(mark in files for mark in _MARKS) or fnmatch.filter(files, event_files.PATTERN):
            folders.clear()
            yield Path(parent)
        folders.sort()


def read_folder(folder: Path, name: str, group: str = "") -> ShownRun:
    """One run from its folder and what is below it.

    Args:
        folder: Has a `run.json`, a `scalars.csv`, a `metrics.csv` or TensorBoard's event files, or several of them.
        name: What the report calls the run.
        group: See `ShownRun`.
    """
    run = ShownRun(name, group or name)
    put_last_record(run, folder)
    said = run.status not in ("unknown", "unreadable")
    _read_scalars(run, folder)
    for path in _own(folder, "config.json"):
        # A record of its own says it too; and below, what lies beside none is the script's, such as a saved model's.
        wanted = not said if path.parent == folder else path.with_name(NAME).is_file()
        if wanted and not run.methods:
            run.methods = _mapping(path, run)
    for path in _own(folder, "tables/**/*.csv"):
        try:
            table = csv_files.table(path, _title(path))
        except (OSError, csv.Error) as error:
            run.notes.append(f"{path.name} cannot be read: {error}.")
            continue
        if table is not None:
            run.tables.append(table)
    for path in _own(folder, "figures/**/*.png"):
        try:
            content = path.read_bytes()
        except OSError as error:
            run.notes.append(f"{path.name} cannot be read: {error}.")
            continue
        if content:  # reserved by a run that was killed before it drew
            run.pictures.append(Picture(_title(path), content))
    return run


def put_last_record(run: ShownRun, folder: Path) -> None:
    """Take over what the record of the last of several fits into one folder says, if there is any."""
    records = [path for path in folder.glob("run*.json") if _RECORD.fullmatch(path.name)]
    if not records:
        return
    # A run that was killed has no later one.
    last = max(records, key=lambda path: (len(path.name), path.name))
    content = read_record(last)
    record, notes = understood(_Record, content, last.name)
    run.status, run.reason = record.status, record.reason
    run.methods, run.versions = record.methods, record.versions
    run.command, run.directory = record.command, record.directory
    run.facts = {name: content[name] for name in _FACTS if content.get(name) is not None}
    run.metrics.update(record.metrics)
    run.notes += notes
    if len(records) > 1:
        run.notes.append(f"{len(records)} fits have written to this folder; the last one's record is shown.")


def as_logged(metrics: Mapping[str, float], logged: Iterable[str]) -> dict[str, float]:
    """The metrics of a `run.json` under the names a logger with a prefix gave them: each is shown once.

    Args:
        metrics: By the names that the module and its methods use.
        logged: The names in the logger's files. Lightning logs the epoch beside everything, which tells the prefix.
    """
    names = set(logged)
    epochs = [name for name in names if name == "epoch" or name.endswith("-epoch")]
    prefix = epochs[0].removesuffix("epoch") if len(epochs) == 1 else ""
    return {
        f"{prefix}{name}" if name not in names and f"{prefix}{name}" in names else name: value
        for name, value in metrics.items()
    }


def _read_scalars(run: ShownRun, folder: Path) -> None:
    for file, read in _READERS.items():
        paths = _own(folder, file)
        if paths and file == event_files.PATTERN and not event_files.can_be_read():
            run.notes.append(
                "What is only in TensorBoard's own files is not shown: pip install tensorboardX, and it is read."
            )
            continue
        of_a_folder: dict[Path, dict[str, list[tuple[float, float]]]] = {}
        for path in paths:
            # A run that was resumed goes on in a further event file beside the first.
            found = of_a_folder.setdefault(path.parent, {})
            try:
                lost = read(path, found)
            except OSError as error:
                run.notes.append(f"{path.name} cannot be read: {error}.")
                continue
            if lost:
                said = f"{lost} {'record' if file == event_files.PATTERN else 'line'}{'s' if lost > 1 else ''}"
                run.notes.append(f"{path.relative_to(folder)}: {said} could not be read and are left out.")
        for found in of_a_folder.values():
            for key, points in found.items():
                # What both a logger and the comparison have written down is one curve: the one with more points.
                if len(points) > len(run.curves.get(key, ())):
                    run.curves[key] = points
    run.metrics = as_logged(run.metrics, run.curves)
    for key, points in run.curves.items():
        run.metrics.setdefault(key, points[-1][1])


def _own(folder: Path, pattern: str) -> list[Path]:
    """The files of a run that match, its own before those of its loggers.

    Not what lies in an artifact, such as a model with its `config.json`, and not what `thunderstone rerun` has written.
    """
    found = []
    for path in folder.rglob(pattern):
        first = path.relative_to(folder).parts[0]
        if first != "artifacts" and not first.startswith("rerun"):
            found.append(path)
    return sorted(found, key=lambda path: (len(path.parts), *_natural(path)))


def _mapping(path: Path, run: ShownRun) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        run.notes.append(f"{path.name} cannot be read: {type(error).__name__}: {error}.")
        return {}
    return content if isinstance(content, dict) else {}


def _title(path: Path) -> str:
    """``sam/layers, step 7`` for ``tables/sam/layers_step7.csv``."""
    stem, _, step = path.stem.rpartition("_step")
    name = "/".join([*_below(path), stem or path.stem])
    return f"{name}, step {step}" if stem else name


def _below(path: Path) -> tuple[str, ...]:
    parts = path.parent.parts
    first = max(index for index, part in enumerate(parts) if part in ("tables", "figures"))
    return parts[first + 1 :]


def _natural(path: Path) -> tuple[str, int, str]:
    """A key that sorts step 7 before step 15."""
    stem, _, step = path.stem.rpartition("_step")
    number = step.split("_")[0]
    return f"{path.parent}/{stem}", int(number) if number.isdigit() else 0, path.name
