"""A program in a fork is what it would be in a fresh interpreter, as far as tests look at it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from warm_interpreter import WarmInterpreter

PORTRAIT = """
import atexit, os, sys
import neighbour
print(__name__, sys.argv[1:], os.getcwd(), sorted(os.environ), neighbour.__name__, "lightning" in sys.modules)
atexit.register(print, "bye")
print("said", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a program beside a module of its own, away from where it runs."""

    def write(source: str) -> Path:
        path = tmp_path / "programs" / "program.py"
        path.parent.mkdir()
        path.with_name("neighbour.py").touch()
        path.write_text(source)
        return path

    return write


def test_a_program_has_its_own_arguments_environment_folder_and_end(
    warm_interpreter: WarmInterpreter, script: Callable[[str], Path], tmp_path: Path
) -> None:
    done = warm_interpreter.run([script(PORTRAIT), 3, "--x"], tmp_path, {"A": "1"})
    assert done.returncode == 3
    assert done.stdout == f"__main__ ['3', '--x'] {tmp_path} ['A'] neighbour True\nbye\n"
    assert done.stderr == "said\n"


def test_an_exception_is_shown_and_ends_the_fork_alone(
    warm_interpreter: WarmInterpreter, script: Callable[[str], Path], tmp_path: Path
) -> None:
    program = script("import sys; 1 / len(sys.argv[1:])")
    failed = warm_interpreter.run([program], tmp_path, os.environ)
    assert failed.returncode == 1
    assert failed.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert warm_interpreter.run([program, 1], tmp_path, os.environ).returncode == 0


def test_a_program_that_takes_too_long_is_killed_with_what_it_started(
    warm_interpreter: WarmInterpreter, script: Callable[[str], Path], tmp_path: Path
) -> None:
    source = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    done = warm_interpreter.run([script(source)], tmp_path, os.environ, limit=1)
    assert done.returncode == -9
    state = Path(f"/proc/{int(done.stdout)}/stat")
    # Whoever inherits it may take a moment to bury it.
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_ranks_know_each_other(
    warm_interpreter: WarmInterpreter, script: Callable[[str], Path], tmp_path: Path
) -> None:
    program = script("import os; print(os.environ['LOCAL_RANK'], os.environ['WORLD_SIZE'], os.environ['MASTER_PORT'])")
    first, second = warm_interpreter.run_ranks([program], tmp_path, os.environ, 2)
    assert (first.stdout.split()[:2], second.stdout.split()[:2]) == (["0", "2"], ["1", "2"])
    assert first.stdout.split()[2] == second.stdout.split()[2]
