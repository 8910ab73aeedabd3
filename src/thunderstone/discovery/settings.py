"""The environment variables that steer discovery."""

from __future__ import annotations

import os
import re
import threading

DISABLE = "THUNDERSTONE_DISABLE"
"""Comma-separated names of entry points or distributions that are not imported."""

STRICT = "THUNDERSTONE_STRICT"
"""Set to 1 to make the failure of any plug-in, and any name conflict, fatal."""

IMPORT_TIMEOUT = "THUNDERSTONE_IMPORT_TIMEOUT"
"""Seconds after which a plug-in's import is given up; 0 waits for ever."""

DEFAULT_IMPORT_TIMEOUT = 10.0

_FALSE = {"", "0", "false", "no", "off"}


def normalized(name: str) -> str:
    """A distribution's name in the one form packaging compares by (PEP 503): ``My_Pkg`` and ``my-pkg`` are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def disabled_names() -> tuple[str, ...]:
    """The names in ``THUNDERSTONE_DISABLE``, as the user wrote them."""
    return tuple(name for part in os.environ.get(DISABLE, "").split(",") if (name := part.strip()))


def strict() -> bool:
    """Whether ``THUNDERSTONE_STRICT`` is set to anything but 0, false, no or off."""
    return os.environ.get(STRICT, "").strip().lower() not in _FALSE


def import_timeout() -> float | None:
    """How many seconds the import of one plug-in may take; None is for ever.

    A value that is no number of seconds counts as `DEFAULT_IMPORT_TIMEOUT`; `import_timeout_fault` says so.
    """
    seconds = _seconds()
    if seconds is None:
        return DEFAULT_IMPORT_TIMEOUT
    return seconds or None


def import_timeout_fault() -> str | None:
    """What is wrong with ``THUNDERSTONE_IMPORT_TIMEOUT``, or None."""
    if _seconds() is not None:
        return None
    return f"it is no number of seconds, so {DEFAULT_IMPORT_TIMEOUT:g} is used"


def _seconds() -> float | None:
    text = os.environ.get(IMPORT_TIMEOUT, "").strip()
    if not text:
        return DEFAULT_IMPORT_TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds <= threading.TIMEOUT_MAX else None
