"""The file `run.json`: what a run was, how it was started and how it ended.

It is written when a run begins and once more when it ends, each time whole or not at all, so that a run that was killed
is known by a record that says "running" although its process is gone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from thunderstone.tracking import provenance
from thunderstone.tracking.configuration import primitive
from thunderstone.tracking.numbered import claimed

NAME = "run.json"
SCHEMA = 1
RUNNING, FINISHED, FAILED, INTERRUPTED = "running", "finished", "failed", "interrupted"


class RunRecord:
    """The record of one run while it runs.

    Args:
        facts: What is known when the run begins, in JSON's types, e.g. ``{"methods": {"sam": {"rho": 0.05}}}``. They
            stand beside, and before, what every record holds.
    """

    def __init__(self, **facts: Any) -> None:
        self._facts = facts
        self._began = time.perf_counter()
        self._processor = processor_seconds()
        self._content: dict[str, Any] = {
            "schema": SCHEMA,
            "status": RUNNING,
            "reason": "",
            "started": now(),
            "ended": None,
            "wall_seconds": None,
            "processor_seconds": None,
        }
        self._complete = False
        self.paths: list[Path] = []

    def place(self, folder: Path) -> Path:
        """Write the record to a folder, under a name that no other run has there, and return where."""
        path = claimed(folder, *os.path.splitext(NAME))
        self.paths.append(path)
        write_json(path, self.content())
        return path

    def content(self) -> dict[str, Any]:
        """What the file holds now."""
        if not self._complete:
            # Only now: asking git takes a moment, and a run that writes nothing needs no answer.
            self._complete = True
            self._content.update(self._facts)
            self._content.setdefault("versions", provenance.versions())
            self._content.setdefault("git", provenance.git_state(provenance.program_folder()))
            self._content.setdefault("hardware", provenance.hardware())
            self._content.setdefault("command", provenance.command_line())
            self._content.setdefault("directory", str(Path.cwd()))
            self._content.setdefault("threads", provenance.threads(os.environ))
            self._content.setdefault("process", provenance.this_process())
        return self._content

    def update(self, **facts: Any) -> None:
        """Write what has become known since, in JSON's types, wherever the record was placed.

        Raises:
            OSError: Of the first place that cannot be written to; the others have it all the same.
        """
        self.content().update(facts)
        failed: list[OSError] = []
        for path in self.paths:
            try:
                write_json(path, self.content())
            except OSError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def close(self, status: str, reason: str = "", **facts: Any) -> None:
        """Write how the run ended wherever the record was placed; more `facts` may be known now.

        Args:
            status: ``"finished"``, ``"failed"`` or ``"interrupted"``.
            reason: Why, unless it finished.
            facts: In JSON's types.
        """
        if not self.paths:
            return
        measured = {
            "status": status,
            "reason": reason,
            "ended": now(),
            "wall_seconds": round(time.perf_counter() - self._began, 3),
            "processor_seconds": round(processor_seconds() - self._processor, 3),
        }
        self.update(**{**measured, **facts})


def read_record(path: Path) -> dict[str, Any]:
    """The content of a `run.json`. A run whose process is gone without having said how it ended has status ``killed``.

    A file that is no such record gives ``{"status": "unreadable", "reason": …}``: what else the folder holds can
    still be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {"status": "unreadable", "reason": f"{path.name}: {type(error).__name__}: {error}"}
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else None
        return {
            "status": "unreadable",
            "reason": f"{path.name}: written by another version of Thunderstone (schema {found}, this is {SCHEMA})",
        }
    if "status" not in content:
        return {"status": "unreadable", "reason": f"{path.name}: it is not the record of a run"}
    if content["status"] == RUNNING and provenance.is_alive(content.get("process")) is False:
        return {**content, "status": "killed", "reason": "its process ended without a word"}
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all: a reader, or a crash, never finds half of it."""
    text = json.dumps(primitive(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def now() -> str:
    """The time in ISO 8601, in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def processor_seconds() -> float:
    """Processor time of this process and of the ones it has started and waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
