"""Offline runs of W&B, read from their own files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from thunderstone.report.folders import as_logged, put_last_record
from thunderstone.report.model import Picture, ShownRun, ShownTable
from thunderstone.report.wandb_log import LogError, merge, records

_STEP = "trainer/global_step"
_IMAGES = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif"}


def wandb_logs(root: Path) -> Iterator[Path]:
    """The logs of offline runs in and below a folder, or the log itself, in order."""
    if root.is_file():
        if root.suffix == ".wandb":
            yield root
        return
    # `latest-run` is a link to one of the others.
    yield from (path for path in sorted(root.rglob("run-*.wandb")) if not path.parent.is_symlink())


def read_wandb_run(path: Path) -> ShownRun:
    """One run from its log and the media files beside it."""
    run = ShownRun(path.stem.removeprefix("run-"))
    run.group = run.name
    config: dict[str, Any] = {}
    complete = False
    try:
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                _history(run, merge({}, record.history.item), path.parent / "files")
            elif kind == "config":
                merge(config, record.config.update)
            elif kind == "run":
                merge(config, record.run.config.update)
                _begin(run, record.run)
            elif kind == "summary":
                _summary(run, merge({}, record.summary.update))
            elif kind == "exit":
                complete = True
                run.status = "finished" if record.exit.exit_code == 0 else "failed"
    except LogError as error:
        run.status, run.reason = "unreadable", f"{path.name}: {error}"
    except ModuleNotFoundError:
        complete = True  # as far as can be known
        run.notes.append("What is only in the log of W&B is not shown: pip install wandb, and it is read.")
    _record(run, path.parent / "files")
    run.methods = {key: value for key, value in config.items() if not key.startswith("_")} or run.methods
    if not complete and run.status in ("unknown", "running"):
        run.status = "running" if run.status == "running" else "unfinished"
        run.notes.append("The log has no end: the run goes on, or was killed.")
    return run


def _begin(run: ShownRun, begun: Any) -> None:
    shown = begun.display_name or begun.run_id
    run.name = run.group = f"{shown} ({begun.run_id})" if begun.display_name else shown
    facts = {"project": begun.project, "group": begun.run_group, "tags": ", ".join(begun.tags)}
    if begun.HasField("start_time"):
        facts["started"] = begun.start_time.ToJsonString()
    run.facts.update({name: value for name, value in facts.items() if value})


def _history(run: ShownRun, row: Mapping[str, Any], files: Path) -> None:
    step = row.get(_STEP, row.get("_step", 0))
    for key, value in row.items():
        if key.startswith("_") or key == _STEP:
            continue
        number = _number(value)
        if number is not None:
            run.curves.setdefault(key, []).append((float(step), number))
            run.metrics[key] = number
        elif isinstance(value, dict):
            _media(run, f"{key}, step {step}", value, files)


def _media(run: ShownRun, title: str, value: Mapping[str, Any], files: Path) -> None:
    paths = [value["path"]] if "path" in value else value.get("filenames", [])
    for name in paths:
        path = files / str(name)
        try:
            if value.get("_type") == "table-file":
                content = json.loads(path.read_text(encoding="utf-8"))
                run.tables.append(ShownTable(title, content["columns"], content["data"]))
            elif path.suffix[1:].lower() in _IMAGES:
                run.pictures.append(Picture(title, path.read_bytes(), _IMAGES[path.suffix[1:].lower()]))
        except (OSError, ValueError, KeyError) as error:
            run.notes.append(f"{title}: {path.name} cannot be read: {type(error).__name__}.")


def _summary(run: ShownRun, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        number = _number(value)
        if number is not None and not key.startswith("_") and key != _STEP:
            run.metrics[key] = number


def _number(value: Any) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    # JSON has neither, so W&B writes them as texts.
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else None


def _record(run: ShownRun, files: Path) -> None:
    """What `run.json` says beside the log, which W&B's own record does not."""
    seen = dict(run.facts)
    status, metrics, methods = run.status, dict(run.metrics), run.methods
    put_last_record(run, files)
    run.facts.update(seen)
    run.metrics = {**as_logged(run.metrics, metrics), **metrics}
    run.methods = methods or run.methods
    if status == "failed":
        run.status = status
