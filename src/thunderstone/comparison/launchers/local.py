"""Runs as processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from thunderstone.comparison.launchers.devices import VISIBLE, visible_devices
from thunderstone.comparison.launchers.job import GRACE_SECONDS, STDERR, STDOUT, Ended, Job
from thunderstone.tracking import provenance


class LocalLauncher:
    """Runs each job in a process of this machine, in a session of its own so that Ctrl-C is left to the comparison.

    Where there are several GPUs and several runs at a time, each run sees one of them: the one that fewest others use.
    """

    def __init__(self) -> None:
        self._devices: list[str] = []
        self._users: list[tuple[str, LocalRun]] = []

    def jobs(self, runs: int) -> int:
        """One a GPU; half the cores where there is none."""
        return min(runs, len(visible_devices()) or max(1, provenance.cores() // 2))

    def share(self, jobs: int) -> int:
        # A run that is alone may want all of them.
        devices = visible_devices() if jobs > 1 else []
        self._devices = devices if len(devices) > 1 else []
        return max(1, provenance.cores() // jobs)

    def start(self, job: Job) -> LocalRun:
        if not self._devices:
            return LocalRun(job)
        self._users = [(device, run) for device, run in self._users if run.poll() is None]
        busy = [device for device, _ in self._users]
        device = min(self._devices, key=busy.count)
        run = LocalRun(replace(job, environment={**job.environment, VISIBLE: device}))
        self._users.append((device, run))
        return run

    def close(self) -> None:
        pass  # a process that has ended leaves nothing open


class LocalRun:
    """A process of this machine. See `Running`.

    Args:
        job: What is run.
        prepare: Called in the new process before its program is loaded.
    """

    def __init__(self, job: Job, prepare: Callable[[], None] | None = None) -> None:
        with (job.folder / STDOUT).open("wb") as output, (job.folder / STDERR).open("wb") as errors:
            self._process = subprocess.Popen(
                list(job.command),
                cwd=job.directory,
                env=dict(job.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
                preexec_fn=prepare,
            )
        self._began = time.perf_counter()
        self._ended: Ended | None = None
        self.process: dict[str, Any] | None = provenance.process(self._process.pid)

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
        deadline = time.monotonic() + GRACE_SECONDS
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
