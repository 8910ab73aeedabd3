"""Comparisons whose runs cost nothing: a launcher that writes down what a run would have left."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from rich.console import Console

from thunderstone.comparison.compare import compare
from thunderstone.comparison.launchers import Ended, Job, LocalLauncher
from thunderstone.comparison.request import Request
from thunderstone.comparison.settings import Setting
from thunderstone.tracking.provenance import this_process

PLAIN = Setting("plain", (), {})
SAM = Setting("sam:rho=0.1", ("sam:rho=0.1",), {"sam": {"rho": 0.1}})


@dataclass
class Run:
    """What a run leaves: metrics, exit code, standard error; how often it is asked before it begins, and has ended."""

    metrics: dict[str, float] | None = None
    exit_code: int | None = 0
    stderr: str = ""
    reason: str = ""
    polls: int = 0
    waits: int = 0
    seconds: float = 2.0
    passes: int = 10
    seeds_overridden: list[int] = field(default_factory=list)


class Pretended:
    """A run that is played back."""

    def __init__(self, run: Run, launcher: PretendingLauncher) -> None:
        self.run, self.launcher, self.left = run, launcher, run.polls
        self.waits = run.waits

    @property
    def process(self) -> dict[str, Any] | None:
        self.waits -= 1
        return {**this_process(), "began": -1} if self.waits < 0 else None  # a process that is gone

    def poll(self) -> Ended | None:
        if self.left < 0:
            raise KeyboardInterrupt
        if self.left > 0:
            self.left -= 1
            return None
        self.launcher.active -= 1
        known = (3.0, 2.5) if self.run.exit_code is not None else (None, None)
        return Ended(self.run.exit_code, *known, reason=self.run.reason)

    def interrupt(self) -> None:
        self.launcher.stopped.append("interrupt")

    def stop(self) -> None:
        self.launcher.stopped.append("stop")


class PretendingLauncher(LocalLauncher):
    """Plays back what `script` says a run with this setting and seed leaves."""

    def __init__(self, script: Callable[[str, int], Run]) -> None:
        super().__init__()
        self.script = script
        self.jobs: list[Job] = []
        self.started: list[tuple[str, int]] = []
        self.active = self.most = 0
        self.stopped: list[str] = []

    def start(self, job: Job) -> Pretended:
        self.jobs.append(job)
        words = list(job.command)
        setting = words[words.index("--with") + 1] if "--with" in words else "plain"
        seed = int(words[words.index("--seed") + 1])
        self.started.append((setting, seed))
        run = self.script(setting, seed)
        (job.folder / "stderr.txt").write_text(run.stderr)
        if run.metrics is not None:
            outcome = {"metrics": run.metrics, "fit_seconds": run.seconds, "passes": run.passes, "steps": 10}
            outcome["seeds_overridden"] = run.seeds_overridden
            (job.folder / "outcome.json").write_text(json.dumps(outcome))
            rows = [
                f"{step},{step // 5},{key},{value * step / 10}" for step in (4, 9) for key, value in run.metrics.items()
            ]
            (job.folder / "scalars.csv").write_text("\n".join(["step,epoch,key,value", *rows]) + "\n")
        self.active += 1
        self.most = max(self.most, self.active)
        return Pretended(run, self)


def accuracies(setting: str, seed: int) -> Run:
    """Plain: 0.5, 0.6, 0.7 … by seed; SAM: 0.1 more, at twice the passes and 1.5 times the time."""
    plain = setting == "plain"
    value = 0.5 + 0.1 * seed + (0.0 if plain else 0.1)
    return Run({"val_acc": value, "val_loss": 1 - value}, seconds=2.0 if plain else 3.0, passes=10 if plain else 20)


@dataclass
class Comparing:
    """Runs comparisons in the test's folder.

    Attributes:
        text: What the last one has printed.
        launcher: What has started its runs.
    """

    folder: Path
    text: str = ""
    launcher: Any = None

    def __call__(
        self,
        script: Callable[[str, int], Run] = accuracies,
        settings: tuple[Setting, ...] = (PLAIN, SAM),
        seeds: int = 2,
        metric: str = "val_acc",
        arguments: tuple[str, ...] = ("train.py", "--epochs", "3"),
        jobs: int = 2,
        terminal: bool = False,
        figure: bool = False,
        width: int = 100,
        guessed: bool = False,
    ) -> int:
        stream = io.StringIO()
        self.launcher = PretendingLauncher(script)
        request = Request(settings, range(seeds), metric, "max", None, arguments, self.folder / "out", guessed)
        # Drawing takes longer than everything else.
        drawing = nullcontext() if figure else patch("thunderstone.comparison.compare.draw")
        try:
            with drawing:
                return compare(request, self.launcher, jobs, Console(file=stream, width=width, force_terminal=terminal))
        finally:
            self.text = stream.getvalue()

    @property
    def output(self) -> Path:
        return self.folder / "out"


@pytest.fixture
def comparing(tmp_path: Path) -> Comparing:
    (tmp_path / "train.py").write_text("...")
    return Comparing(tmp_path)


# pytest imports test modules one by one (importlib mode), so what they share must be importable by itself.
sys.modules["pretended_runs"] = sys.modules[__name__]
