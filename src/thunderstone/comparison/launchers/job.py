"""What every launcher is given, gives back, and can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

STDOUT, STDERR = "stdout.txt", "stderr.txt"
GRACE_SECONDS = 10.0
"""How long a run that was asked to end is waited for before it is ended by force."""


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
    """How a job ended.

    Attributes:
        exit_code: Of its process, negative for a signal; None where the process was lost and nothing says.
        wall_seconds: Of its process, without the time it waited for one; None where that is not known.
        processor_seconds: The same of its processor time.
        reason: What its launcher knows of an end that its process could not tell of, e.g. that the machine went down.
    """

    exit_code: int | None
    wall_seconds: float | None
    processor_seconds: float | None = None
    reason: str = ""


class Running(Protocol):
    """A job that has been started."""

    @property
    def process(self) -> dict[str, Any] | None:
        """What `thunderstone.tracking.provenance.this_process` would say in it; None while it waits to begin."""

    def poll(self) -> Ended | None:
        """How the job ended; None while it has not. Does not wait."""

    def interrupt(self) -> None:
        """Ask the job to end, as Ctrl-C would. Does not wait."""

    def stop(self) -> None:
        """Wait a while for the job to end, then end it by force."""


class Launcher(Protocol):
    """Starts jobs."""

    def jobs(self, runs: int) -> int:
        """How many of so many runs are started at a time where the user does not say."""

    def share(self, jobs: int) -> int:
        """Get ready for at most so many runs at a time; how many threads each of them has."""

    def start(self, job: Job) -> Running:
        """Start a job and return at once.

        Raises:
            OSError: It cannot be started.
            RequestError: No job can be started as it was asked for.
        """

    def close(self) -> None:
        """Let go of what `start` has opened. Every job has ended."""
