"""Folders as runs leave them, made by what the runs themselves write with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from thunderstone.comparison import results
from thunderstone.comparison.results import Result
from thunderstone.tracking.figures import render
from thunderstone.tracking.folder import FolderSink
from thunderstone.tracking.records import Record, Table
from thunderstone.tracking.run_record import RunRecord, write_json

# pytest imports test modules one by one (importlib mode), so what they share must be importable by itself.
sys.path.insert(0, str(Path(__file__).parent))

HOSTILE = '<script>alert("&")</script>'


def make_run(folder: Path, curve: list[float], end: str | None = "finished", **facts: object) -> None:
    """A tracked run with one curve, a table and a figure; without an end it goes on in a process that is gone."""
    gone = {"process": {"host": _host(), "pid": 2**22 + 1, "began": 1}}
    record = RunRecord(**{"methods": {"sam": {"rho": 0.05, "note": HOSTILE}}, "seed": {"torch": 3}, **gone, **facts})
    folder.mkdir(parents=True)
    sink = FolderSink(lambda: folder, "the folder")
    sink.run(record)
    for step, value in enumerate(curve):
        sink.scalars({"sam/norm": value}, step, 0)
    for step in (7, 15):
        sink.table(Record("sam", "layers", Table(["layer", "density"], [["a", 0.25], [HOSTILE, step]]), step, 0))
    figure = Figure(figsize=(1, 1), dpi=30)
    figure.subplots().plot([1, 2])
    sink.figure(Record("sam", "spectrum", figure, 15, 0), render(figure, "sam/spectrum"))
    if end is not None:
        record.close(end, "" if end == "finished" else "ValueError: no data", metrics={"val_acc": 0.875})


def _host() -> str:
    from thunderstone.tracking.provenance import this_process

    return str(this_process()["host"])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs in a `runs/` folder: one finished, one killed in the middle of a line."""
    make_run(tmp_path / "runs/first", [4.0, 2.0, 1.0, 3.0])
    make_run(tmp_path / "runs/second", [3.0, 2.5], end=None)
    with (tmp_path / "runs/second/scalars.csv").open("a") as file:
        file.write("2,0,sam/no")
    return tmp_path / "runs"


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    """Two settings with two seeds each, of which one failed."""
    folder = tmp_path / "compared"
    description = {"schema": 1, "settings": ["plain", "sam:rho=0.1"], "metric": "val_acc"}
    for setting in ("plain", "sam:rho=0.1"):
        for seed in (0, 1):
            where = folder / "runs" / setting.replace(":", "_") / f"seed{seed}"
            make_run(where, [1.0, 0.5 + seed])
            failed = (setting, seed) == ("plain", 1)
            (where / "stderr.txt").write_text("Traceback\nValueError: no luck\n" if failed else "")
            found = Result(
                setting,
                seed,
                "failed" if failed else "finished",
                where.relative_to(folder).as_posix(),
                int(failed),
                reason="ValueError: no luck" if failed else "",
                metrics={} if failed else {"val_acc": 0.5 + 0.1 * seed},
            )
            results.append(folder / "runs.jsonl", found)
    write_json(folder / "comparison.json", {**description, "command": ["thunderstone", "compare", "a b"]})
    (folder / "summary.csv").write_text("setting,mean\nplain,0.5123456789\nsam:rho=0.1,0.55\n")
    (folder / "comparison.png").write_bytes(render(Figure(figsize=(1, 1), dpi=30), "comparison"))
    return folder


sys.modules["report_runs"] = sys.modules[__name__]
