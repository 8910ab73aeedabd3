"""Keeps several runs going, and turns each that ends into a result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thunderstone.cli import factory
from thunderstone.comparison.launchers import STDERR, Ended, Job, Launcher, Running
from thunderstone.comparison.observer import OUTCOME
from thunderstone.comparison.request import Request
from thunderstone.comparison.results import COMPARED_VERSIONS, Result
from thunderstone.comparison.settings import Setting
from thunderstone.errors import RequestError
from thunderstone.tracking import provenance
from thunderstone.tracking.numbered import claimed
from thunderstone.tracking.run_record import FAILED, FINISHED, INTERRUPTED, NAME, RunRecord, read_record

_POLL_SECONDS = 0.05


@dataclass
class Active:
    """A run that goes on."""

    setting: Setting
    seed: int
    folder: Path
    command: list[str]
    record: RunRecord
    running: Running


class Schedule:
    """Runs the runs of a request, a few at a time.

    Args:
        request: The comparison.
        launcher: Starts them.
        jobs: How many at a time.
    """

    def __init__(self, request: Request, launcher: Launcher, jobs: int) -> None:
        self._request = request
        self._launcher = launcher
        self._jobs = jobs
        self._active: list[Active] = []

    def results(
        self, waiting: list[tuple[Setting, int]], begun: Callable[[str, int], None]
    ) -> Generator[Result, None, None]:
        """Start the runs in turn and give each one's result when it ends; `begun` is called when one starts.

        Whoever stops iterating, and Ctrl-C or SIGTERM, ends the runs that go on; they have no result then.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM.
            RequestError: A folder cannot be written to.
        """
        waiting = list(waiting)
        with _interruptible():
            try:
                while waiting or self._active:
                    while waiting and len(self._active) < self._jobs:
                        setting, seed = waiting.pop(0)
                        self._start(setting, seed)
                        begun(setting.label, seed)
                    ended = [(active, end) for active in self._active if (end := active.running.poll()) is not None]
                    for active, end in ended:
                        self._active.remove(active)
                        yield _result(active, end, self._request.output)
                    if not ended:
                        time.sleep(_POLL_SECONDS)
            finally:
                self._stop()

    def _start(self, setting: Setting, seed: int) -> None:
        request = self._request
        git = provenance.git_state(_where(request))  # before the run begins: it takes a moment
        try:
            folder = _new_folder(request.output / "runs" / setting.folder, f"seed{seed}")
            command = [*_thunderstone(), *request.words(setting, seed, folder)]
            environment = self._environment(folder)
            running = self._launcher.start(Job(command, environment, Path.cwd(), folder))
            record = RunRecord(
                seed={"lightning": seed, "torch": seed},
                methods=setting.methods,
                git=git,
                command=command,
                folder=str(folder),
                threads=provenance.threads(environment),
                process=running.process or {},
            )
            # At once: whatever happens from here on, Ctrl-C too, `_stop` ends the run.
            self._active.append(Active(setting, seed, folder, command, record, running))
            record.place(folder)
        except OSError as error:
            raise RequestError(
                f"compare: {setting.label}, seed {seed} cannot be started: {type(error).__name__}: {error}. Runs that "
                "have finished are kept, and the same command goes on with the others"
            ) from error

    def _environment(self, folder: Path) -> Mapping[str, str]:
        threads = str(max(1, provenance.cores() // self._jobs))
        return {
            **dict.fromkeys(provenance.THREADS, threads),
            **os.environ,
            **factory.run_variables(folder),
        }

    def _stop(self) -> None:
        for active in self._active:
            active.running.interrupt()  # all of them first, so that they end side by side
        for active in self._active:
            active.running.stop()
        stopped, self._active = self._active, []
        for active in stopped:
            # Where nothing can be written any more, the record says "running" of a process that is gone: killed.
            with suppress(OSError):
                active.record.close(INTERRUPTED, "the comparison was stopped")


def still_running(output: Path) -> Path | None:
    """The folder of a run whose process goes on although the comparison that started it is gone, if there is one."""
    for path in sorted(output.glob(f"runs/*/*/{NAME}")):
        record = read_record(path)
        if record.get("status") == "running" and provenance.is_alive(record.get("process")):
            return path.parent
    return None


def last_line(path: Path) -> str:
    """The last line with something in it of a log, or nothing."""
    lines = last_lines(path, 1)
    return lines[0] if lines else ""


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines with something in them of a log, at most so many."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64 * 1024))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def _result(active: Active, end: Ended, output: Path) -> Result:
    outcome = _outcome(active.folder / OUTCOME)
    status = FINISHED if end.exit_code == 0 else FAILED
    reason = "" if status == FINISHED else last_line(active.folder / STDERR) or "it said nothing"
    if end.exit_code < 0:
        name = signal.Signals(-end.exit_code).name if -end.exit_code in set(signal.Signals) else str(-end.exit_code)
        reason = f"ended by {name}" + (f"; its last line was: {reason}" if reason != "it said nothing" else "")
    metrics = {key: float(value) for key, value in outcome.get("metrics", {}).items()}
    active.record.close(
        status,
        reason,
        wall_seconds=round(end.wall_seconds, 3),
        processor_seconds=end.processor_seconds,
        metrics=metrics,
        passes=outcome.get("passes"),
        steps=outcome.get("steps"),
    )
    versions = provenance.versions()
    return Result(
        setting=active.setting.label,
        seed=active.seed,
        status=status,
        folder=active.folder.relative_to(output.absolute()).as_posix(),
        exit_code=end.exit_code,
        reason=reason,
        metrics=metrics,
        fit_seconds=outcome.get("fit_seconds"),
        wall_seconds=end.wall_seconds,
        processor_seconds=end.processor_seconds,
        passes=outcome.get("passes"),
        steps=outcome.get("steps"),
        seeds_overridden=outcome.get("seeds_overridden", []),
        versions={name: versions[name] for name in COMPARED_VERSIONS if name in versions},
        command=active.command,
    )


def _outcome(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # the run ended before any Trainer did
    return content if isinstance(content, dict) else {}


def _new_folder(parent: Path, name: str) -> Path:
    """A folder that is new: an earlier attempt's files are kept, and not mistaken for this one's."""
    parent = parent.absolute()
    parent.mkdir(parents=True, exist_ok=True)
    return claimed(parent, name)


def _thunderstone() -> list[str]:
    """The command `thunderstone` of this interpreter's environment."""
    script = shutil.which("thunderstone", path=os.path.dirname(sys.executable))
    # `-m` would put the working directory, and modules of the user's that happen to be there, before the library.
    return (
        [sys.executable, script]
        if script and not script.endswith(".exe")
        else [sys.executable, "-m", "thunderstone.cli"]
    )


def _where(request: Request) -> Path:
    folder = Path(request.arguments[0]).resolve().parent if request.module is None else Path.cwd()
    return folder if folder.is_dir() else Path.cwd()


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends a comparison as Ctrl-C does: with its runs stopped, and its results kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
