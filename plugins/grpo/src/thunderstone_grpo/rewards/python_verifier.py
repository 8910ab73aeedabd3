"""Whether a program that a model wrote passes its tests."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from thunderstone import UnsupportedSettingError
from thunderstone.arguments import finite, one_of, whole
from thunderstone_grpo.rewards.arithmetic import text_of

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.S)
_PROGRAM = Path(__file__).with_name("python_program.py")


class PythonVerifier:
    """A reward function: 1 where the code of a completion passes its tests, 0 where it does not.

    The last fenced block of a completion is the code, or all of it where there is none. Code and tests run in an
    interpreter of their own (the standard library alone), in an empty folder with an empty environment, with limits for
    processor time, memory, files and (unless run by root) processes, and without a network where the system lets a
    process give it up.

    **This is no security boundary.** It keeps mistakes of a model from harming a run: endless loops, huge lists, files
    all over the place. Code that means harm can read every file this user can read, and can look for the test's token
    in its own process. For code that is not trusted use a container or a virtual machine.

    Args:
        tests: Name of the column with the tests: Python that raises where the code is wrong.
        timeout: Seconds a program may take.
        memory: Largest address space in MiB.
        file_size: Largest file, and output, in KiB.
        network: ``"try"`` gives the network up where it can; ``"refuse"`` runs nothing where it cannot.
        workers: Programs that run at the same time.

    Raises:
        ArgumentError: An argument is out of range.
        UnsupportedSettingError: The system has no limits of this kind (Windows), or ``network="refuse"`` and it cannot
            be given up.
    """

    def __init__(
        self,
        tests: str = "tests",
        timeout: float = 5.0,
        memory: int = 512,
        file_size: int = 1024,
        network: str = "try",
        workers: int = 1,
    ) -> None:
        who = type(self).__name__
        self.tests = tests
        self.timeout = finite(who, "timeout", timeout, "pass seconds, e.g. 5", above=0)
        self.memory = whole(who, "memory", memory, "pass MiB, e.g. 512", minimum=64)
        self.file_size = whole(who, "file_size", file_size, "pass KiB, e.g. 1024", minimum=1)
        self.network = one_of(who, "network", network, ("try", "refuse"))
        self.workers = whole(who, "workers", workers, "use the number of cores that are free")
        self.__name__ = "python"
        self._separated = False

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        """Rewards of completions (texts, or chat messages whose last is looked at)."""
        pairs = list(zip(completions, columns[self.tests], strict=True))
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(lambda pair: float(self.passes(code_of(text_of(pair[0])), str(pair[1]))), pairs))

    def passes(self, code: str, tests: str) -> bool:
        """Whether code passes tests. Raises UnsupportedSettingError as the class does."""
        if os.name != "posix":
            raise UnsupportedSettingError(
                type(self).__name__, f"os.name={os.name!r}", "there are no resource limits", "use a container on Linux"
            )
        if self.network == "refuse" and not self._separated:
            # Asked with an empty program: an exit code of the model's own making would prove nothing.
            if not self._run("", ""):
                raise UnsupportedSettingError(
                    type(self).__name__,
                    "network='refuse'",
                    "this system does not let a process give up its network",
                    "allow unprivileged user namespaces, run in a container without a network, or use network='try'",
                )
            self._separated = True
        return self._run(code, tests)

    def _run(self, code: str, tests: str) -> bool:
        token = secrets.token_hex(16)
        request = {
            "code": code,
            "tests": tests,
            "token": token,
            "network": self.network,
            "cpu_seconds": int(self.timeout) + 1,
            "memory_bytes": self.memory * 2**20,
            "file_bytes": self.file_size * 2**10,
            "open_files": 32,
        }
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
            # Output goes to a file, whose size the limits hold; a pipe would be read into our own memory.
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                start_new_session=True,
            )
            try:
                process.communicate(json.dumps(request).encode(), timeout=self.timeout)
            except subprocess.TimeoutExpired:
                return False
            finally:
                _end(process)
            output.seek(0)
            lines = output.read().decode(errors="replace").splitlines()
            # Not the last line: what was printed before may still be on its way when the token is written.
            return process.returncode == 0 and token in lines


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a program and of what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()


def code_of(text: str) -> str:
    """The last fenced block of a text, or all of it."""
    blocks: list[str] = _FENCE.findall(text)
    return blocks[-1] if blocks else text
