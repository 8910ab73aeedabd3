"""The two environment variables that steer discovery."""

from __future__ import annotations

import os
import re

DISABLE = "THUNDERSTONE_DISABLE"
"""Comma-separated names of entry points or distributions that are not imported."""

STRICT = "THUNDERSTONE_STRICT"
"""Set to 1 to make the failure of any plug-in, and any name conflict, fatal."""

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
