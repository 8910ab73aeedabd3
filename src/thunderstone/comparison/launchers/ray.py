"""Runs as tasks of a Ray cluster."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from thunderstone.comparison.launchers.job import GRACE_SECONDS, Ended, Job
from thunderstone.comparison.launchers.supervised import ProcessFile, supervise
from thunderstone.errors import RequestError

# What a worker is late in telling of an end, beyond the time the run itself may take for it.
_DELAY_SECONDS = 5.0
# Ray says them on the terminal of whoever asked. Read when it is imported, and when a cluster is started.
_SILENCE = {
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class RayLauncher:
    """Runs each job as a task of a Ray cluster, which decides where and when.

    It is the cluster that `address` or ``RAY_ADDRESS`` names, else the one that was started on this machine last, else
    a cluster of this machine's own, which ends with the comparison. All machines of it see the comparison's folder
    under the same path and have the same environment.

    Args:
        address: Of the cluster, e.g. ``"10.0.0.1:6379"``.
        cpus: Cores that Ray sets aside for each run, and its threads.
        gpus: GPUs that Ray sets aside for each run, and all that it sees; a fraction shares one. By default 1 where the
            cluster has any.
    """

    def __init__(self, address: str | None = None, cpus: float = 1, gpus: float | None = None) -> None:
        for option, value in (("cpus", cpus), ("gpus", gpus)):
            if value is not None and (value < 0 or (value > 1 and value != int(value))):
                raise RequestError(
                    f"compare: --launcher ray:{option}={value:g} is not allowed: Ray sets aside a whole number, or a "
                    "fraction of one"
                )
        with _quiet():
            try:
                import ray
            except ModuleNotFoundError as error:
                raise RequestError(
                    f"compare: --launcher ray needs {error.name!r}, which is not installed. HINT: pip install "
                    "'thunderstone[ray]'"
                ) from error
        self._ray = ray
        self._address, self._cpus, self._gpus = address, cpus, gpus
        self._opened = False
        self._task: Any = None

    def jobs(self, runs: int) -> int:
        """All of them: the cluster knows how many it has room for, and a cluster that grows needs to be asked."""
        return runs

    def share(self, jobs: int) -> int:
        return max(1, int(self._cpus))

    def start(self, job: Job) -> RayRun:
        if self._task is None:
            self._connect()
        return RayRun(self._ray, self._task.remote(job), job)

    def close(self) -> None:
        if self._opened:
            self._ray.shutdown()
            self._opened, self._task = False, None

    def _connect(self) -> None:
        ray = self._ray
        named = (self._address or os.environ.get("RAY_ADDRESS", "local")) != "local"
        if not ray.is_initialized():
            with _quiet(), _own_handler():
                ray.init(address=self._address, include_dashboard=False, log_to_driver=False, logging_level="error")
            self._opened = True
        has = ray.cluster_resources()
        gpus = self._gpus if self._gpus is not None else float(has.get("GPU", 0) > 0)
        for option, asked, there in (("cpus", self._cpus, has.get("CPU", 0)), ("gpus", gpus, has.get("GPU", 0))):
            if not named and asked > there:  # the runs would wait for ever
                raise RequestError(
                    f"compare: --launcher ray:{option}={asked:g} is more than the cluster of this machine has, which "
                    f"is {there:g}. HINT: ray:address=… names another; a cluster that is named may still grow"
                )
        # A run that fails has failed: what is tried again is said by whoever starts the comparison again.
        options = {"num_cpus": self._cpus, "num_gpus": gpus, "max_retries": 0}
        self._task = ray.remote(**options)(supervise)


class RayRun:
    """A task of a Ray cluster. See `Running`."""

    def __init__(self, ray: Any, reference: Any, job: Job) -> None:
        self._ray, self._reference = ray, reference
        self._file = ProcessFile(job.folder, every=0.5)
        self._ended: Ended | None = None

    @property
    def process(self) -> dict[str, Any] | None:
        return self._file.read()

    def poll(self) -> Ended | None:
        return self._wait(0)

    def interrupt(self) -> None:
        self._ray.cancel(self._reference)

    def stop(self) -> None:
        if self._wait(GRACE_SECONDS + _DELAY_SECONDS) is None:
            self._ray.cancel(self._reference, force=True)  # the worker goes, and the run with it
            self._wait(_DELAY_SECONDS)

    def _wait(self, seconds: float) -> Ended | None:
        if self._ended is None and self._ray.wait([self._reference], timeout=seconds)[0]:
            try:
                self._ended = self._ray.get(self._reference)
            except self._ray.exceptions.RayError as error:
                self._ended = Ended(None, None, reason=_in_words(error))
        return self._ended


def _in_words(error: Exception) -> str:
    """The first line of an error of Ray's, or of the error that was raised in the task."""
    raised = getattr(error, "cause", None) or error
    said = next((line.strip() for line in str(raised).splitlines() if line.strip()), "")
    return f"{type(raised).__name__}: {said}" if said else type(raised).__name__


@contextmanager
def _own_handler() -> Iterator[None]:
    """What SIGTERM does stays what it did: Ray would end the process, with results that are not written yet."""
    earlier = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if earlier is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, earlier)


@contextmanager
def _quiet() -> Iterator[None]:
    # For the moment only: the runs inherit this process's variables.
    added = {name: value for name, value in _SILENCE.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
