"""A plug-in whose import does not come back is not waited for, and never silently."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from thunderstone.discovery import settings

# An import of these that is interrupted leaves half of a compiled library behind, and every later one fails.
_NOT_TO_BE_INTERRUPTED = {"torch", "lightning", "pytorch_lightning", "numpy"}
_AGAIN_AFTER = 1.0
T = TypeVar("T")


class ImportTimeout(BaseException):
    """Raised inside of an import that takes too long. No Exception: a plug-in's own `except` is not to swallow it."""


def wait_longer(name: str, seconds: float) -> str:
    """The way out of it.

    Args:
        name: The plug-in's.
        seconds: How long it was waited for.
    """
    return f"set {settings.DISABLE}={name} to leave it out, or {settings.IMPORT_TIMEOUT}={6 * seconds:g} to wait longer"


def within_limit(do: Callable[[], T], name: str, label: str) -> T:
    """`do`, interrupted when it takes longer than ``THUNDERSTONE_IMPORT_TIMEOUT`` seconds.

    In the main thread and where nobody else uses the alarm signal (the user's handlers and timers are left alone), an
    ImportTimeout is raised in the code that hangs. Elsewhere, and where code that is not Python's holds on or torch is
    being imported, the plug-in is named on the standard error and waiting goes on. Nothing of this is left behind.

    Args:
        do: Imports a plug-in.
        name: The plug-in's name, which ``THUNDERSTONE_DISABLE`` takes.
        label: How messages name it.
    """
    seconds = settings.import_timeout()
    if seconds is None:
        return do()
    interrupts = _alarm_is_free()
    message = f"thunderstone: {label} is still being imported after {seconds:g} s. HINT: {wait_longer(name, seconds)}"
    notice = threading.Timer(seconds + (min(_AGAIN_AFTER, seconds) if interrupts else 0), _say, (message,))
    notice.daemon = True
    notice.start()
    try:
        return _interrupted(do, seconds) if interrupts else do()
    finally:
        notice.cancel()


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _alarm_is_free() -> bool:
    return (
        hasattr(signal, "setitimer")
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, signal.SIG_IGN)
        and signal.getitimer(signal.ITIMER_REAL)[0] == 0
    )


def _interrupted(do: Callable[[], T], seconds: float) -> T:
    waiting = True

    def interrupt(_: int, frame: FrameType | None) -> None:
        if waiting and not _is_importing(_NOT_TO_BE_INTERRUPTED, frame):
            raise ImportTimeout

    # No context manager: an alarm between its body and its end would leave the timer running.
    before: Any = signal.signal(signal.SIGALRM, interrupt)
    try:
        # Again and again: code may catch whatever is raised, or be importing torch right now.
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_AFTER)
        return do()
    finally:
        waiting = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _is_importing(packages: set[str], frame: FrameType | None) -> bool:
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if frame.f_code.co_name == "<module>" and module.partition(".")[0] in packages:
            return True
        frame = frame.f_back
    return False
