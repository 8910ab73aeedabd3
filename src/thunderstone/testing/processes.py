"""Training in processes of its own, so that it can be killed."""

from __future__ import annotations

import atexit
import inspect
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from thunderstone.attachment.method import Method
from thunderstone.testing.bench import Bench
from thunderstone.testing.outcome import CheckFailure, CheckSkipped
from thunderstone.testing.zoo import CASES, Case

_LIMIT = 120.0
"""Seconds after which a run of a few batches hangs."""
_LOG_LINES = 25
_ATTEMPTS = 3


@dataclass(frozen=True)
class Job:
    """A run in processes of its own.

    Attributes:
        case: The module of the zoo.
        ranks: Number of processes; above 1 under DDP over gloo.
        accumulate: Micro-batches an update.
        save_every: Batches after which the checkpoint is written anew; 0 for never.
        kill: Number of the batch, from 1, and place in it (a hook's name) at which every rank ends with SIGKILL.
        resume: The checkpoint to resume from.
        attached: Whether the method is attached.
        blocked: Packages that look as if they were not installed while it trains.
    """

    case: Case
    ranks: int = 1
    accumulate: int = 1
    save_every: int = 0
    kill: tuple[int, str] | None = None
    resume: Path | None = None
    attached: bool = True
    blocked: tuple[str, ...] = ()


class Launcher:
    """The interpreter that runs jobs, started with the first and ended with this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, job: dict[str, Any]) -> list[int | None]:
        """Exit codes of the job's ranks; negative for signals, None where a rank had to be ended."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(process.stdin, job)
            answer = process.stdout.readline()
        except BaseException:
            # Interrupted, or the pipe broke: an answer that still comes would be taken for the next job's.
            process.kill()
            self.close()
            raise
        if not answer:
            self.close()
            raise CheckFailure("the process that runs jobs has ended; its messages are on standard error")
        codes: list[int | None] = json.loads(answer)["codes"]
        return codes

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "thunderstone.testing.program"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
                # Ctrl-C is for the process that asked; this one ends when its input does.
                start_new_session=True,
            )
            atexit.register(self.close)
        return self._process

    def close(self) -> None:
        """End the interpreter."""
        process, self._process = self._process, None
        if process is not None:
            process.communicate()


def _send(stream: IO[str], job: dict[str, Any]) -> None:
    stream.write(json.dumps(job) + "\n")
    stream.flush()


_LAUNCHER = Launcher()


@dataclass
class Finished:
    """A job that is over.

    Attributes:
        folder: Where it wrote.
        codes: Exit codes of its ranks.
        results: What each rank ended with; empty when it was killed.
        checkpoint: The last checkpoint it wrote.
    """

    folder: Path
    codes: list[int | None]
    results: list[dict[str, Any]]
    checkpoint: Path

    def log(self) -> str:
        """The end of what the first failing rank printed."""
        for rank, code in enumerate(self.codes):
            path = self.folder / f"rank{rank}.log"
            if code not in (0, None) and path.exists():
                return "\n".join(path.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:])
        return "no rank said anything"

    @property
    def killed(self) -> bool:
        """Whether it was killed as planned: one rank by its own hand, no rank finished."""
        return -signal.SIGKILL in self.codes and not self.results


def launch(bench: Bench, job: Job) -> Finished:
    """Run a job and wait for it.

    Raises:
        CheckSkipped: The platform cannot fork.
        CheckFailure: A rank failed; the message has the end of its output.
    """
    if not hasattr(os, "fork"):
        raise CheckSkipped("training processes are forked and killed, which this platform does not offer")
    for _ in range(_ATTEMPTS):
        finished = _launch_once(bench, job)
        if finished.results or (job.kill is not None and finished.killed):
            return finished
        # The port was free when it was chosen; another process may have been faster.
        if "EADDRINUSE" not in (log := finished.log()) and "address already in use" not in log:
            break
    raise CheckFailure(f"[{job.case.name}, {job.ranks} process(es)] training failed: {finished.log()}")


def _launch_once(bench: Bench, job: Job) -> Finished:
    folder = Path(tempfile.mkdtemp(dir=_folder(bench)))
    checkpoint = folder / "last.ckpt"
    codes = _LAUNCHER.run(
        {
            "folder": str(folder),
            "limit": _LIMIT,
            "ranks": job.ranks,
            "port": _free_port() if job.ranks > 1 else 0,
            "case": _case(job.case, folder),
            "method": _description(bench.method(job.case), folder) if job.attached else None,
            "accumulate": job.accumulate,
            "save_every": job.save_every,
            "checkpoint": str(checkpoint),
            "kill": job.kill,
            "resume": str(job.resume) if job.resume is not None else None,
            "blocked": list(job.blocked),
        }
    )
    finished = Finished(folder, codes, [], checkpoint)
    if all(code == 0 for code in codes):
        files = [folder / f"rank{rank}.pt" for rank in range(job.ranks)]
        finished.results = [torch.load(file, weights_only=False) for file in files]
    return finished


def run_ranks(bench: Bench, case: Case, world_size: int) -> list[dict[str, Any]]:
    """What each rank of a run with the method ends with; run once a bench."""
    key = f"{case.name} on {world_size} ranks"
    if key not in bench.kept:
        bench.kept[key] = launch(bench, Job(case, ranks=world_size)).results
    results: list[dict[str, Any]] = bench.kept[key]
    return results


def _folder(bench: Bench) -> str:
    if "folder" not in bench.kept:
        bench.kept["folder"] = tempfile.mkdtemp(prefix="thunderstone-")
        weakref.finalize(bench, shutil.rmtree, bench.kept["folder"], ignore_errors=True)
    folder: str = bench.kept["folder"]
    return folder


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _case(case: Case, folder: Path) -> str | dict[str, Any]:
    """How another process finds the module: by its name in the zoo, or what it is made by, by reference."""
    if CASES.get(case.name) is case:
        return case.name
    path = folder / "case.pickle"
    try:
        path.write_bytes(pickle.dumps(case))
    except (AttributeError, pickle.PicklingError) as error:
        raise CheckFailure(
            f"the case {case.name!r} cannot be built in another process: {error}. HINT: make it of functions and "
            "classes at the top level of a module"
        ) from error
    return {"file": str(path), "path": [entry for entry in sys.path if entry]}


def _description(method: Method, folder: Path) -> dict[str, Any]:
    """How another process builds the method: the class by its path, and the arguments it was built with."""
    cls = type(method)
    if "<locals>" in cls.__qualname__:
        raise CheckFailure(
            f"{cls.__qualname__} is defined inside a function, where no other process finds it. HINT: move it to the "
            "top level of a module"
        )
    path = folder / "arguments.pickle"
    path.write_bytes(pickle.dumps(method.arguments))
    return {
        "module": cls.__module__,
        "qualname": cls.__qualname__,
        "file": inspect.getfile(cls),
        "arguments": str(path),
        "path": [entry for entry in sys.path if entry],
    }
