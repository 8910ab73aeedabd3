"""What `thunderstone compare` was asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thunderstone.comparison.settings import Setting


@dataclass(frozen=True)
class Request:
    """A comparison.

    Attributes:
        settings: What is compared; the first is what the others are compared with.
        seeds: The seeds, the same for every setting.
        metric: Name of a metric the script logs.
        mode: ``"max"`` or ``"min"``: what is better.
        module: The module of ``-m``, or None for a script.
        arguments: The script and its arguments, or the module's arguments. ``{seed}``, ``{folder}`` and ``{setting}``
            in them stand for the run's.
        output: The folder everything is written to.
        guessed: Whether nothing says what is better, so that `mode` is the one that is more usual.
    """

    settings: Sequence[Setting]
    seeds: Sequence[int]
    metric: str
    mode: str
    module: str | None
    arguments: Sequence[str]
    output: Path
    guessed: bool = False

    @property
    def runs(self) -> list[tuple[Setting, int]]:
        """Every run. Settings take turns, so that a machine that is busy for a while slows all of them down."""
        return [(setting, seed) for seed in self.seeds for setting in self.settings]

    def words(self, setting: Setting, seed: int, folder: Path) -> list[str]:
        """What stands after ``thunderstone`` on the command line of one run."""
        words = ["run", "--seed", str(seed)]
        for option in setting.options:
            words += ["--with", option]
        if self.module is not None:
            words += ["-m", self.module]
        for argument in self.arguments:
            filled = argument.replace("{seed}", str(seed)).replace("{folder}", str(folder))
            words.append(filled.replace("{setting}", setting.label))
        return words

    def program(self) -> dict[str, Any]:
        """What must be the same for runs to be compared: the program, its arguments, and the content of its file."""
        script = Path(self.arguments[0]) if self.module is None else None
        digest = None
        if script is not None and script.is_file():
            digest = hashlib.sha256(script.read_bytes()).hexdigest()
        return {"module": self.module, "arguments": list(self.arguments), "sha256": digest}
