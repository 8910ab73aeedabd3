"""What a run was made with: versions, source code, hardware and command line, as far as a process can know them.

Nothing here starts a device, draws a random number or imports torch.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

_PACKAGES = ("thunderstone", "torch", "lightning", "numpy")
_GIT_SECONDS = 10
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""The variables that say how many threads share one sum: with another number its last bits are others."""


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    plugins = {point.dist.name for point in entry_points(group="thunderstone") if point.dist is not None}
    found = {"python": platform.python_version()}
    for name in (*_PACKAGES, *sorted(plugins - set(_PACKAGES))):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return tuple(found.items())


def versions() -> dict[str, str]:
    """Versions by package: Python, torch, Lightning, NumPy, Thunderstone and every plug-in that is installed."""
    return dict(_versions())


@cache
def _git(folder: str) -> tuple[str, str, int] | None:
    def ask(*arguments: str) -> str:
        # No optional locks: a training run must not get in the way of the user's own git.
        command = ["git", "--no-optional-locks", "-C", folder, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True, stdin=subprocess.DEVNULL
        ).stdout.strip()

    try:
        commit, branch = ask("rev-parse", "HEAD"), ask("rev-parse", "--abbrev-ref", "HEAD")
        changed = ask("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None  # no git, no repository, or none with a commit
    return commit, branch, len(changed.splitlines())


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, branch and the number of tracked files with uncommitted changes; None outside of a git repository."""
    found = _git(str(folder))
    return None if found is None else dict(zip(("commit", "branch", "changed_files"), found, strict=True))


def program_folder() -> Path:
    """Where the running script is; the working directory where there is none (a notebook, `python -c`)."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    folder = Path(main).resolve().parent if main else Path.cwd()
    return folder if folder.is_dir() else Path.cwd()


@cache
def hardware() -> str:
    """Processor, usable cores and system in words, e.g. ``AMD EPYC 7B13, 8 cores, Linux``; no names of machines."""
    model = platform.processor() or platform.machine()
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        model = found[1] if found else model
    except OSError:
        pass  # not Linux, where /proc is
    model = " ".join(re.sub(r"\((?:R|TM)\)|@.*", "", model).split())
    count = cores()
    return f"{model}, {count} core{'s' if count > 1 else ''}, {platform.system()}"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(environment: Mapping[str, str]) -> dict[str, str]:
    """Those of `THREADS` that an environment sets."""
    return {name: environment[name] for name in THREADS if name in environment}


def command_line() -> list[str]:
    """The command that started this process, word by word, as it was given to the interpreter."""
    return list(sys.orig_argv)


def this_process() -> dict[str, Any]:
    """What tells this process from every other: machine, number, and when it began (None where unknown)."""
    return process(os.getpid())


def process(pid: int) -> dict[str, Any]:
    """`this_process`, of another process of this machine."""
    return {"host": socket.gethostname(), "pid": pid, "began": _began(pid)}


def is_alive(process: Any) -> bool | None:
    """Whether a process that `this_process` described still runs; None where that cannot be known from here."""
    if not isinstance(process, dict) or process.get("host") != socket.gethostname():
        return None
    pid = process.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return None
    try:
        os.kill(pid, 0) if os.name == "posix" else None
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is there, and another user's
    if os.name != "posix":
        return None
    # Numbers are used again: what began at another time is another process.
    return process.get("began") is None or _began(pid) == process["began"]


def _began(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine did; None where /proc does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        # A zombie has ended, and only waits for its parent to ask how.
        return None if fields[0] == "Z" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
