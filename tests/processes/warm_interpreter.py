"""Python programs in processes of their own that have torch and Lightning imported already.

Importing the two takes six seconds of a processor, and dozens of tests train in another process to see what its user
would see. One interpreter imports them and waits; each program runs in a fork of it, with its own arguments,
environment, folder and output. What a fork shares with the others, and fresh processes do not, is the seed of hashes:
a test in which that or an import matters starts Python itself.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_POLL = 0.01
_GRACE = 20.0
"""Seconds that the other programs of a request have left once one has failed."""

Finished = subprocess.CompletedProcess[str]


class WarmInterpreter:
    """Runs programs in forks of one interpreter, which is started with the first."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def run(
        self, arguments: Sequence[object], folder: Path, environment: Mapping[str, str], limit: float = 200
    ) -> Finished:
        """Like ``python ARGUMENTS``, of which the first is a script, in a folder; killed after `limit` seconds."""
        (finished,) = self._run(arguments, folder, [environment], limit)
        return finished

    def run_ranks(
        self, arguments: Sequence[object], folder: Path, environment: Mapping[str, str], number: int, limit: float = 280
    ) -> list[Finished]:
        """The same as that many processes of one training, as `torchrun` would start them."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        job = {**environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(number)}
        ranks = [{**job, "NODE_RANK": "0", "LOCAL_RANK": str(rank)} for rank in range(number)]
        return self._run(arguments, folder, ranks, limit)

    def _run(
        self, arguments: Sequence[object], folder: Path, environments: Sequence[Mapping[str, str]], limit: float
    ) -> list[Finished]:
        command = [str(argument) for argument in arguments]
        with tempfile.TemporaryDirectory(prefix="thunderstone-") as outputs:
            programs = [
                {
                    "arguments": command,
                    "folder": str(folder),
                    "environment": dict(environment),
                    "outputs": [f"{outputs}/{number}.out", f"{outputs}/{number}.err"],
                }
                for number, environment in enumerate(environments)
            ]
            codes = self._answer({"programs": programs, "limit": limit})
            said = [[Path(path).read_text(encoding="utf-8") for path in one["outputs"]] for one in programs]
        return [subprocess.CompletedProcess(command, code, *texts) for code, texts in zip(codes, said, strict=True)]

    def _answer(self, request: dict[str, Any]) -> list[int]:
        if self._server is None or self._server.poll() is not None:
            # Ctrl-C is for the tests; this process ends when its input does.
            self._server = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            atexit.register(self.close)
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, "the interpreter that runs programs has ended; its messages are on standard error"
        codes: list[int] = json.loads(answer)
        return codes

    def close(self) -> None:
        """End the interpreter."""
        server, self._server = self._server, None
        if server is not None:
            server.communicate()


def serve() -> dict[str, Any] | None:
    """Answer requests until there are no more. In a fork: the program that it is to be."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        children: list[int] = []
        for program in request["programs"]:
            child = os.fork()
            if child == 0:
                answers.close()
                mine: dict[str, Any] = program
                return mine
            children.append(child)
        answers.write(json.dumps(_wait(children, request["limit"])) + "\n")
    return None


def _wait(children: Sequence[int], limit: float) -> list[int]:
    """Exit codes, negative for signals; who takes too long is killed."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + limit
    while len(codes) < len(children):
        late = time.monotonic() > deadline
        for child in children:
            if child not in codes:
                if late:
                    os.killpg(child, signal.SIGKILL)
                ended, status = os.waitpid(child, 0 if late else os.WNOHANG)
                if ended:
                    codes[child] = os.waitstatus_to_exitcode(status)
                    if codes[child] != 0:
                        deadline = min(deadline, time.monotonic() + _GRACE)
        time.sleep(_POLL)
    return [codes[child] for child in children]


def become(program: dict[str, Any]) -> None:
    """Be this program. What ends it, an exception or an exit, ends the interpreter as it ever does."""
    os.setpgid(0, 0)  # so that it can be killed with what it has started
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in enumerate(program["outputs"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(program["folder"])
    os.environ.clear()
    os.environ.update(program["environment"])
    sys.argv = program["arguments"]
    script = sys.argv[0]
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:1] = [os.path.dirname(os.path.realpath(script)), *inherited]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    # What nearly all of them need, and what every example has beside it.
    for module in ("lightning.pytorch", "matplotlib.pyplot"):
        importlib.import_module(module)
    own = serve()
    if own is not None:
        become(own)
