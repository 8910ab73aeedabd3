"""Where runs are started: a small interface, and the launcher of this machine's own processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from thunderstone.errors import RequestError, suggestion
from thunderstone.tracking.provenance import process

STDOUT, STDERR = "stdout.txt", "stderr.txt"
_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Job:
    """One run, ready to be started.

    Attributes:
        command: The command line.
        environment: All variables of its process.
        directory: Where it is started.
        folder: Its folder, made already; its output goes to `stdout.txt` and `stderr.txt` there.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    folder: Path


@dataclass(frozen=True)
class Ended:
    """How a job ended: exit code (negative for a signal), and its time in seconds as far as it is known."""

    exit_code: int
    wall_seconds: float
    processor_seconds: float | None = None


class Running(Protocol):
    """A job that has been started."""

    process: dict[str, Any] | None
    """What `thunderstone.tracking.provenance.this_process` would say in it; None where that is not known."""

    def poll(self) -> Ended | None:
        """How the job ended; None while it has not. Does not wait."""

    def interrupt(self) -> None:
        """Ask the job to end, as Ctrl-C would. Does not wait."""

    def stop(self) -> None:
        """Wait a while for the job to end, then end it by force."""


class Launcher(Protocol):
    """Starts jobs."""

    def start(self, job: Job) -> Running:
        """Start a job and return at once.

        Raises:
            OSError: It cannot be started.
        """


class LocalLauncher:
    """Runs each job in a process of this machine, in a session of its own so that Ctrl-C is left to the comparison."""

    def start(self, job: Job) -> LocalRun:
        return LocalRun(job)


class LocalRun:
    """A process of this machine. See `Running`."""

    def __init__(self, job: Job) -> None:
        with (job.folder / STDOUT).open("wb") as output, (job.folder / STDERR).open("wb") as errors:
            self._process = subprocess.Popen(
                list(job.command),
                cwd=job.directory,
                env=dict(job.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        self._began = time.perf_counter()
        self._ended: Ended | None = None
        self.process: dict[str, Any] | None = process(self._process.pid)

    def poll(self) -> Ended | None:
        if self._ended is not None:
            return self._ended
        if not hasattr(os, "wait4"):
            code = self._process.poll()
            if code is not None:
                self._ended = Ended(code, time.perf_counter() - self._began)
            return self._ended
        # wait4 rather than Popen.poll: it also says how much processor time this one child has used.
        pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            self._process.returncode = code
            self._ended = Ended(code, time.perf_counter() - self._began, usage.ru_utime + usage.ru_stime)
        return self._ended

    def interrupt(self) -> None:
        self._signal(getattr(signal, "SIGINT", signal.SIGTERM))

    def stop(self) -> None:
        deadline = time.monotonic() + _GRACE_SECONDS
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        # Whatever the run has started goes with it.
        self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        while self.poll() is None:
            time.sleep(0.02)

    def _signal(self, number: int) -> None:
        try:
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, number)
            elif self.poll() is None:
                self._process.terminate()
        except ProcessLookupError:
            pass  # it, and all it started, has ended


LAUNCHERS: Mapping[str, Callable[[], Launcher]] = {"local": LocalLauncher}


def launcher(name: str) -> Launcher:
    """The launcher of a name. Raises RequestError when there is none."""
    if name not in LAUNCHERS:
        raise RequestError(f"compare: there is no launcher {name!r}. {suggestion(name, LAUNCHERS)}")
    return LAUNCHERS[name]()
