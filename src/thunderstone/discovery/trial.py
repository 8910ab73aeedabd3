"""Tasks done first in a child process, which may crash or hang in the place of this one."""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

Task = Callable[[], Any]


@dataclass(frozen=True)
class Death:
    """How a task ended its process.

    Attributes:
        how: ``"ended the process with SIGSEGV"``, ``"ended the process with exit code 3"``, or ``"took longer than
            10 s"``.
        slow: It was the last of these.
        where: The stack at that moment, as `faulthandler` writes it; empty where nothing could be written.
    """

    how: str
    slow: bool = False
    where: str = ""


def can_try() -> bool:
    """Whether this process can have a copy of itself do something: it can fork, and no other thread holds a lock."""
    return hasattr(os, "fork") and threading.active_count() == 1


def in_a_child(tasks: Sequence[Task], seconds: float | None) -> list[Any]:
    """What each task returns in a copy of this process, or the `Death` of that copy; the rest is done in a further one.

    A child's standard streams lead nowhere, and it ends without running anything that was registered for the end of
    this process.

    Args:
        tasks: Each returns something that JSON can hold.
        seconds: What one task may take; None is for ever.
    """
    outcomes: list[Any] = []
    while len(outcomes) < len(tasks):
        outcomes += _until_death(tasks[len(outcomes) :], seconds)
    return outcomes


def _until_death(tasks: Sequence[Task], seconds: float | None) -> list[Any]:
    outcomes: list[Any] = []
    with tempfile.TemporaryFile() as stack:
        process, answers = _child(tasks, seconds, stack.fileno())
        slow = False
        try:
            while len(outcomes) < len(tasks):
                slow, answer = _next_line(answers, seconds)
                if answer is None:
                    break
                outcomes.append(json.loads(answer))
        finally:
            os.close(answers)
            # It hangs, or has nothing more to do; the status of one that ended by itself stays what it is.
            os.kill(process, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        stack.seek(0)
        where = stack.read().decode(errors="replace")
    if len(outcomes) == len(tasks):
        return outcomes
    if slow:
        return [*outcomes, Death(f"took longer than {seconds:g} s", slow=True, where=where)]
    end = f"exit code {status}" if status >= 0 else _signal_name(-status)
    return [*outcomes, Death(f"ended the process with {end}", where=where)]


def _child(tasks: Sequence[Task], seconds: float | None, stack: int) -> tuple[int, int]:
    """The process that does the tasks, and the end of a pipe from which its answers are read, one a line."""
    answers, here = os.pipe()
    with warnings.catch_warnings():
        # There is no second Python thread; what libraries keep in reserve holds no lock of ours.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        process = os.fork()
    if process == 0:
        _do(tasks, seconds, here, stack)
    os.close(here)
    return process, answers


def _do(tasks: Sequence[Task], seconds: float | None, answers: int, stack: int) -> NoReturn:
    code = 1
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        sys.stdout = sys.stderr = os.fdopen(nowhere, "w")
        faulthandler.disable()  # enabled twice, it would not notice that a handler was put over its own
        faulthandler.enable(stack)
        for task in tasks:
            if seconds is not None:
                faulthandler.dump_traceback_later(0.9 * seconds, file=stack)
            answer = json.dumps(task())
            faulthandler.cancel_dump_traceback_later()
            os.write(answers, answer.encode() + b"\n")
        code = 0
    finally:
        os._exit(code)


def _next_line(pipe: int, seconds: float | None) -> tuple[bool, bytes | None]:
    """Whether it took too long, and the next line; None where there is none."""
    line, end = b"", None if seconds is None else time.monotonic() + seconds
    while not line.endswith(b"\n"):
        rest = None if end is None else max(0.0, end - time.monotonic())
        if not select.select([pipe], [], [], rest)[0]:
            return True, None
        # Byte by byte: the next line may be in the pipe already.
        byte = os.read(pipe, 1)
        if not byte:
            return False, None
        line += byte
    return False, line


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
