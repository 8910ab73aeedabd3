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
    begun: bool = False


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
        self._threads = launcher.share(jobs)
        self._active: list[Active] = []

    def results(
        self, waiting: list[tuple[Setting, int]], begun: Callable[[str, int], None]
    ) -> Generator[Result, None, None]:
        """Start the runs in turn and give each one's result when it ends; `begun` is called when one begins.

        A run that its launcher has put into a queue begins later than it was started.

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
                    for active in self._active:
                        if not active.begun and self._begin(active):
                            begun(active.setting.label, active.seed)
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
                process=running.process or provenance.this_process(),  # which waits for it to begin
            )
            # At once: whatever happens from here on, Ctrl-C too, `_stop` ends the run.
            self._active.append(Active(setting, seed, folder, command, record, running))
            record.place(folder)
        except OSError as error:
            raise RequestError(
                f"compare: {setting.label}, seed {seed} cannot be started: {type(error).__name__}: {error}. Runs that "
                "have finished are kept, and the same command goes on with the others"
            ) from error

    def _begin(self, active: Active) -> bool:
        """Whether a run goes on by now; its process is then in its record, so that it is known when it is gone."""
        process = active.running.process
        if process is None:
            return False
        active.begun = True
        if active.record.content()["process"] != process:
            active.record.update(process=process)
        return True

    def _environment(self, folder: Path) -> Mapping[str, str]:
        return {
            **dict.fromkeys(provenance.THREADS, str(self._threads)),
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
            if not active.begun and active.running.process is None:
                shutil.rmtree(active.folder, ignore_errors=True)  # it was in a queue, and never began
                continue
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
    if end.exit_code is None:
        reason = end.reason or "it was lost"
    elif end.exit_code < 0:
        name = signal.Signals(-end.exit_code).name if -end.exit_code in set(signal.Signals) else str(-end.exit_code)
        reason = f"ended by {name}" + (f"; its last line was: {reason}" if reason != "it said nothing" else "")
    metrics = {key: float(value) for key, value in outcome.get("metrics", {}).items()}
    active.record.close(
        status,
        reason,
        wall_seconds=None if end.wall_seconds is None else round(end.wall_seconds, 3),
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
