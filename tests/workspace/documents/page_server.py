"""A process that has imported torch and Lightning once, and forks one copy of itself for each document.

Reads one JSON object a line: ``{"document", "folder", "setup", "steps", "timeout"}``. Answers each with one line,
``{"code", "errors"}``. A document's steps run in a folder of their own, in order, in one process; every command is run
by a further copy, as if it had been typed. Started with ``python page_server.py``, on one thread.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

import lightning.pytorch
import torch
from page_steps import take

import thunderstone

# What most pages import: once here, and not in every copy.
EARLY = [
    *(spec.target.partition(":")[0] for spec in thunderstone.methods().values()),
    "lightning.pytorch.cli",
    "tensorboardX",
]


def serve() -> None:
    sys.path.insert(0, str(Path(__file__).parent / "setups"))
    for module in EARLY:
        import_module(module)
    torch.set_num_threads(1)
    assert lightning.pytorch.Trainer is not None
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps(answer(request)) + "\n")
        answers.flush()


def answer(request: dict[str, object]) -> dict[str, object]:
    folder = Path(str(request["folder"]))
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(folder.name + ".log")
    child = os.fork()
    if child == 0:
        _become_a_page(log)
        code = 1
        try:
            code = take(request)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = _wait(child, float(str(request["timeout"])))
    return {"code": code, "errors": log.read_text(encoding="utf-8", errors="replace")}


def _become_a_page(log: Path) -> None:
    os.setsid()
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(source, target)


def _wait(child: int, seconds: float) -> int:
    """The exit code of `child`; 124 when it was still running after `seconds` and had to be killed."""
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 124
        time.sleep(0.01)


if __name__ == "__main__":
    serve()
