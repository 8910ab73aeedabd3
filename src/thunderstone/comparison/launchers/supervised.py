"""A run on whatever machine a cluster has chosen: what watches over it there, and what is known of it here.

There, it is imported in a process beside the run, so it does without torch.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from thunderstone.comparison.launchers.job import Ended, Job
from thunderstone.comparison.launchers.local import LocalRun

PROCESS = "process.json"
"""The file in a run's folder that says which process it became, and where."""

_POLL_SECONDS = 0.05
_PATIENCE = 30.0
# What a scheduler says to its own processes. The same variables of the machine that asked mean nothing there.
_OF_THE_MACHINE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "TMPDIR")
_OF_THE_SCHEDULER = ("SLURM_", "SLURMD_", "SRUN_")
_PR_SET_PDEATHSIG = 1


def supervise(job: Job) -> Ended:
    """Run a job in a process of this machine to its end. Whatever exception reaches this function ends the run first.

    Raises:
        FileNotFoundError: The folder of the run is not on this machine.
    """
    _check_folder(job.folder)
    for left in ("outcome.json", "scalars.csv"):
        (job.folder / left).unlink(missing_ok=True)  # of a machine that was taken away: the run begins anew
    # Ray asks a task to end by what Ctrl-C does, which a process that was started in the background does not hear.
    with _on_interrupt(signal.default_int_handler):
        run = LocalRun(replace(job, environment=environment_here(job.environment)), _preparation())
        try:
            (job.folder / PROCESS).write_text(json.dumps(run.process), encoding="utf-8")
            while (end := run.poll()) is None:
                time.sleep(_POLL_SECONDS)
            return end
        finally:
            # It asks again and again until the task has ended; the run is given its time all the same.
            with _on_interrupt(signal.SIG_IGN):
                if run.poll() is None:
                    run.interrupt()
                    run.stop()


def environment_here(asked: Mapping[str, str]) -> dict[str, str]:
    """The variables of a run: those of the process that asked for it, but of this machine's scheduler what it says."""
    here = {name: value for name, value in os.environ.items() if _is_of_here(name)}
    return {**{name: value for name, value in asked.items() if not _is_of_here(name)}, **here}


@contextmanager
def _on_interrupt(handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # nowhere else can a signal be dealt with
        return
    earlier = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)


class ProcessFile:
    """What a run has said of its process, as soon as its folder shows it.

    Args:
        folder: The run's.
        every: Look for it at most once in so many seconds: the folder may lie on a machine far away.
    """

    def __init__(self, folder: Path, every: float) -> None:
        self._path, self._every = folder / PROCESS, every
        self._next = 0.0
        self._found: dict[str, Any] | None = None

    def read(self) -> dict[str, Any] | None:
        """The process; None while there is none."""
        if self._found is None and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            try:
                self._found = json.loads(self._path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return None  # the run waits in a queue, or this is half of the file
        return self._found


def _is_of_here(name: str) -> bool:
    return name in _OF_THE_MACHINE or name.startswith(_OF_THE_SCHEDULER)


def _check_folder(folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not folder.is_dir():
        if time.monotonic() > deadline:
            raise FileNotFoundError(
                f"{folder} is not there on {socket.gethostname()}. HINT: --output a folder that every machine of the "
                "cluster shares"
            )
        time.sleep(1.0)  # a network's file system may show it a little later


def _preparation() -> Callable[[], None] | None:
    """What the run's process does before its program is loaded; None where it cannot do it."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # loaded before the process forks

    def prepare() -> None:
        # Workers of clusters let Ctrl-C pass by, and what they start would inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        # A run whose worker is killed has nobody left who waits for it, and would keep its device.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare
