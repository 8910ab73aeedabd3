"""A plug-in package and the command line, in processes of their own."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from warm_interpreter import WarmInterpreter

from thunderstone.discovery import refresh

COMMAND = Path(sys.executable).with_name("thunderstone")
INTERPRETER = sys.executable
MARKING = '''
"""A method that writes down what it sees, as far as anything of it is used."""
import json
import os
from pathlib import Path
from typing import Literal, Optional

from thunderstone import ArgumentError, Method, MethodSpec, StrategySpec, hookimpl


class Mark(Method):
    """Writes a line for every fit.

    It changes nothing.

    Args:
        path: Where to
            write.
        amount: How much of it.
        shape: In which form.

    Cost:
        One line.
    """

    name = "mark"
    exclusive = frozenset({"marker"})
    unsupported_strategies = {"FSDPStrategy": "it shards what is marked"}

    def __init__(
        self,
        path: Path = Path("marks"),
        amount: float = 1.0,
        shape: Literal["round", "square"] = "round",
        steps: Optional[int] = None,
        betas: tuple[float, float] = (0.9, 0.999),
        layers: list[str] = [],
    ) -> None:
        if amount < 0:
            raise ArgumentError("Mark", "amount", amount, "it must be 0 or more", "use 1.0")
        self.path, self.amount, self.shape = path, amount, shape
        self.steps, self.betas, self.layers = steps, betas, layers

    def on_fit_start(self, trainer, pl_module):
        super().on_fit_start(trainer, pl_module)
        fields = {"amount": self.amount, "shape": self.shape, "steps": self.steps, "betas": list(self.betas)}
        fields |= {"rank": trainer.global_rank, "pid": os.getpid(), "tuple": isinstance(self.betas, tuple)}
        with open(self.path, "a") as marks:
            marks.write(json.dumps({**fields, "layers": self.layers}) + "\\n")


class Stateful(Mark):
    """Like Mark, and has state."""

    name = "stateful"
    exclusive = frozenset()
    identified_by = ("amount",)

    def state_dict(self):
        return {"amount": self.amount}


def halve(value: float, times: int = 1) -> float:
    """Halves a value.

    Args:
        value: What to halve.
        times: How often.
    """
    return value / 2**times
'''
PLUGIN = """
from thunderstone import MethodSpec, Reference, StrategySpec, hookimpl

PAPER = Reference("On Marks", "Ada First and Ben Second", 1999, "https://example.org/marks")


@hookimpl
def thunderstone_methods():
    return [
        MethodSpec("mark", "marking:Mark", "marking", "Marks a fit.", PAPER),
        MethodSpec("stateful", "marking:Stateful", "marking", "Marks a fit and remembers it."),
    ]


@hookimpl
def thunderstone_strategies():
    return [StrategySpec("marking.scale", "halve", "marking:halve", "Halves.")]
"""


class Shell:
    """A directory with scripts and a `site` of installed packages, and commands that are run in it."""

    def __init__(self, folder: Path, warm: WarmInterpreter) -> None:
        self.folder, self._warm = folder, warm
        self.site = folder / "site"
        self.site.mkdir()

    def write(self, name: str, source: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        return path

    def install(self, distribution: str, modules: dict[str, str], entry_points: str, version: str = "1.0") -> None:
        for name, source in modules.items():
            self.write(f"site/{name}.py", source)
        information = f"site/{distribution.replace('-', '_')}-{version}.dist-info"
        self.write(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        self.write(f"{information}/entry_points.txt", entry_points)

    def python(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [INTERPRETER, *map(str, arguments)],
            cwd=self.folder,
            env=self._environment(variables),
            capture_output=True,
            text=True,
            timeout=120,
        )

    def thunderstone(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.python(COMMAND, *arguments, **variables)

    def warm_python(self, script: object, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        """Like `python`, which has imported Lightning already: for scripts that would."""
        return self._warm.run([script, *arguments], self.folder, self._environment(variables), limit=120)

    def warm_thunderstone(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.warm_python(COMMAND, *arguments, **variables)

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.site), **variables}


@pytest.fixture
def shell(tmp_path: Path, warm_interpreter: WarmInterpreter) -> Shell:
    """A shell with nothing installed but what the workspace has."""
    return Shell(tmp_path, warm_interpreter)


@pytest.fixture
def marked_shell(shell: Shell) -> Shell:
    """A shell with the methods `mark` and `stateful` installed."""
    modules = {"marking": MARKING, "marking_plugin": PLUGIN}
    shell.install("marking", modules, "[thunderstone]\nmarking = marking_plugin\n")
    return shell


@pytest.fixture
def break_a_plugin(shell: Shell) -> Callable[[], None]:
    """Installs a plug-in that fails at import."""

    def install() -> None:
        source = "raise ImportError('libshatter.so is [missing]')"
        shell.install("shattered", {"shattered": source}, "[thunderstone]\nshattered = shattered\n", version="0.3")

    return install


@pytest.fixture
def marking(marked_shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module with the methods `mark` and `stateful`, installed in this process."""
    monkeypatch.syspath_prepend(str(marked_shell.site))
    refresh()
    yield importlib.import_module("marking")
    for module in ("marking", "marking_plugin"):
        sys.modules.pop(module, None)
    refresh()
