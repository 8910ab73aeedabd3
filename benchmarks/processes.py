"""Running a command in a process of its own and timing it."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path


def run(*command: str) -> tuple[float, float, str]:
    """Run `command` to its end; wall-clock seconds, processor seconds, and what it printed.

    Raises:
        CalledProcessError: The command failed.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def thunderstone_command() -> str:
    """The `thunderstone` script beside this interpreter."""
    found = shutil.which("thunderstone", path=str(Path(sys.executable).parent))
    if found is None:
        sys.exit("`thunderstone` is not installed beside this Python. HINT: make install")
    return found


def resident(field: str) -> int:
    """Resident memory of this process in bytes: ``"VmRSS"`` now, ``"VmHWM"`` at its peak. Linux only."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))
