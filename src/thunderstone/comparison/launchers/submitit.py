"""Runs as jobs of a SLURM cluster, through submitit."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Literal

from thunderstone.comparison.launchers.job import GRACE_SECONDS, Ended, Job
from thunderstone.comparison.launchers.supervised import ProcessFile, supervise
from thunderstone.errors import RequestError
from thunderstone.tracking import provenance

NAME = "thunderstone"
"""What the jobs are called in the queue."""

_POLL_SECONDS = 1.0
# How much later than its end a job's result may be seen in a folder of the network.
_DELAY_SECONDS = 15.0


class SubmititLauncher:
    """Hands each job to SLURM, which decides where and when. The folder is one that its machines share.

    Args:
        partition: Of the cluster.
        timeout_min: How long a run may take, in minutes; it fails when it takes longer.
        cpus: Cores of each run, and its threads.
        gpus: GPUs of each run.
        mem_gb: Memory of each run, in GB; the cluster's default if not given.
        account: Who is charged.
        qos: Quality of service.
        constraint: Features of the machines.
        additional: Whatever else ``sbatch`` takes, e.g. ``{reservation: r1, exclude: node7}``.
        cluster: ``"slurm"``, or ``"local"`` for processes of this machine, to try a comparison out.
    """

    def __init__(
        self,
        partition: str | None = None,
        timeout_min: int = 60,
        cpus: int = 1,
        gpus: int | None = None,
        mem_gb: float | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        additional: dict[str, str] | None = None,
        cluster: Literal["slurm", "local"] = "slurm",
    ) -> None:
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise RequestError(
                f"compare: --launcher submitit needs {error.name!r}, which is not installed. HINT: pip install "
                "'thunderstone[submitit]'"
            ) from error
        for option, value in (("timeout_min", timeout_min), ("cpus", cpus)):
            if value < 1:
                raise RequestError(
                    f"compare: --launcher submitit:{option}={value} is not allowed: it must be 1 or more"
                )
        if cluster == "slurm" and shutil.which("srun") is None:
            raise RequestError(
                "compare: --launcher submitit: there is no SLURM on this machine (no `srun`). HINT: start it where "
                "jobs are submitted; submitit:cluster=local runs them on this machine"
            )
        self._submitit = submitit
        self._cluster, self._cpus = cluster, cpus
        self._parameters: Mapping[str, Any] = {
            "name": NAME,
            "timeout_min": timeout_min,
            "cpus_per_task": cpus,
            "gpus_per_node": gpus,
            "mem_gb": mem_gb,
            "slurm_partition": partition,
            "slurm_account": account,
            "slurm_qos": qos,
            "slurm_constraint": constraint,
            "slurm_additional_parameters": additional,
        }

    def jobs(self, runs: int) -> int:
        """All of them: the queue is SLURM's. On this machine, half the cores."""
        return runs if self._cluster == "slurm" else min(runs, max(1, provenance.cores() // 2))

    def share(self, jobs: int) -> int:
        return self._cpus

    def start(self, job: Job) -> SubmititRun:
        executor = self._submitit.AutoExecutor(folder=job.folder / "submitit", cluster=self._cluster)
        executor.update_parameters(**self._parameters)
        with _without_interrupts():
            try:
                submitted = executor.submit(supervise_job, job)
            except self._submitit.core.utils.FailedJobError as error:  # sbatch has refused it, and says why
                raise RequestError(f"compare: SLURM does not take the job: {str(error).strip()}") from error
        return SubmititRun(submitted, job, queued=self._cluster == "slurm")

    def close(self) -> None:
        pass  # jobs that have ended leave nothing open


class SubmititRun:
    """A job in a queue. See `Running`.

    Args:
        submitted: The `submitit.Job`.
        job: What it runs.
        queued: Whether a scheduler decides when it begins; a process of this machine begins at once.
    """

    def __init__(self, submitted: Any, job: Job, queued: bool) -> None:
        self._submitted, self._queued = submitted, queued
        self._file = ProcessFile(job.folder, every=_POLL_SECONDS)
        self._next = 0.0
        self._vanished: float | None = None
        self._heard = False
        self._ended: Ended | None = None

    @property
    def process(self) -> dict[str, Any] | None:
        return self._file.read()

    def poll(self) -> Ended | None:
        if self._ended is None and time.monotonic() >= self._next:
            self._next = time.monotonic() + _POLL_SECONDS
            if self._submitted.done():
                self._ended = self._end()
        return self._ended

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    def stop(self) -> None:
        if self._queued and self.process is None:
            return  # SLURM has taken it out of its queue, or kills what it has just begun
        deadline = time.monotonic() + GRACE_SECONDS
        while not self._is_over() and time.monotonic() < deadline:
            if not self._heard and self.process is not None:
                self.interrupt()  # it has begun after it was asked not to
            time.sleep(0.1)
        if not self._is_over():
            self._signal(signal.SIGKILL)

    def _is_over(self) -> bool:
        return self._ended is not None or bool(self._submitted.done())

    def _signal(self, number: int) -> None:
        process = self.process
        self._heard = process is not None
        if process is not None and process.get("host") == socket.gethostname():
            with suppress(ProcessLookupError):  # it, and all it started, has ended
                os.killpg(process["pid"], number)
        else:
            self._submitted.cancel(check=False)

    def _end(self) -> Ended | None:
        """How it ended; None while there is hope that the file that says it will be seen."""
        if not self._submitted.paths.result_pickle.exists():
            self._vanished = self._vanished or time.monotonic()
            if time.monotonic() < self._vanished + _DELAY_SECONDS:
                return None
            return Ended(None, None, reason=f"its job ended without a result, in the state {self._submitted.state}")
        failure = self._submitted.exception()
        if failure is None:
            ended: Ended = self._submitted.result()
            return ended
        # The trace of what was raised there stands between two lines of dashes.
        _, _, rest = str(failure).partition("-" * 22)
        trace = [line.strip() for line in rest.partition("-" * 22)[0].splitlines() if line.strip()]
        return Ended(None, None, reason=trace[-1] if trace else str(failure))


def supervise_job(job: Job) -> Ended:
    """`supervise` in a job of SLURM, which ends jobs by SIGTERM, and by force a while later."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise RuntimeError("its job was ended from outside (SIGTERM)")

    signal.signal(signal.SIGTERM, stop)
    return supervise(job)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started in here is not reached by Ctrl-C on the terminal, which is the comparison's to deal with."""
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
