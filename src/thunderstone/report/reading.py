"""From a folder to a report: finds out what the folder holds, and reads it."""

from __future__ import annotations

from pathlib import Path

from thunderstone.errors import RequestError, nearest
from thunderstone.report.comparisons import is_comparison, read_comparison
from thunderstone.report.folders import read_folder, run_folders
from thunderstone.report.model import Report
from thunderstone.report.wandb_runs import read_wandb_run, wandb_logs

_COMPARED_VERSIONS = ("thunderstone", "torch", "lightning")


def read(folder: Path) -> Report:
    """Everything that a `runs/` folder, one run, a comparison or an offline W&B run (or several) has to show.

    Raises:
        RequestError: There is nothing at the path, or nothing that is a run.
    """
    if not folder.exists():
        close = nearest(folder.name, [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else [])
        raise RequestError(
            f"report: there is no folder {str(folder)!r}." + (f" Did you mean {close!r}?" if close else "")
        )
    if is_comparison(folder):
        report = read_comparison(folder)
    else:
        logs = list(wandb_logs(folder))
        # Beside W&B's log lies its folder `files`, with a record of the same run.
        found = [] if folder.is_file() else run_folders(folder)
        shown = [path for path in found if path.parent not in [log.parent for log in logs]]
        runs = [read_folder(path, _name(path, folder)) for path in shown] + [read_wandb_run(log) for log in logs]
        report = Report(folder.resolve().name, runs)
    if not report.runs:
        raise RequestError(
            f"report: {str(folder)!r} holds no run. HINT: give a runs/ folder, one of the folders in it, a logger's "
            "log_dir, the folder of `thunderstone compare`, or wandb/offline-run-…"
        )
    _unique_names(report)
    report.notes += _notes(report)
    return report


def _name(path: Path, root: Path) -> str:
    return path.resolve().name if path == root else path.relative_to(root).as_posix()


def _unique_names(report: Report) -> None:
    seen: dict[str, int] = {}
    for run in report.runs:
        seen[run.name] = seen.get(run.name, 0) + 1
        if seen[run.name] > 1:
            alone = run.group == run.name
            run.name = f"{run.name} ({seen[run.name]})"
            run.group = run.name if alone else run.group


def _notes(report: Report) -> list[str]:
    notes = []
    for name in _COMPARED_VERSIONS:
        found = sorted({run.versions[name] for run in report.runs if name in run.versions})
        if len(found) > 1:
            notes.append(f"The runs were made with different versions of {name}: {', '.join(found)}.")
    ended = {"killed": "were killed", "failed": "failed", "interrupted": "were interrupted"}
    for status, words in ended.items():
        count = sum(run.status == status for run in report.runs)
        if count:
            notes.append(f"{count} of {len(report.runs)} runs {words}; their curves end early.")
    return notes
