"""Running an example as a user would."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from warm_interpreter import WarmInterpreter

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def short_run(warm_interpreter: WarmInterpreter) -> Callable[[str, Path], str]:
    """Runs an example in its short form, which writes into a folder, and gives what it printed."""

    def run(name: str, folder: Path) -> str:
        # What is quiet for users must be: the suite's own settings silence W&B.
        environment = {key: value for key, value in os.environ.items() if key not in ("WANDB_SILENT", "WANDB_MODE")}
        program = [EXAMPLES / f"{name}.py", "--fast", "--output", folder]
        done = warm_interpreter.run(program, Path.cwd(), environment, limit=280)
        assert done.returncode == 0, done.stderr[-3000:]
        for noise in ("Warning", "GPU available", "wandb:"):
            assert noise not in done.stderr + done.stdout
        assert str(folder) in done.stdout.replace("\n", "")
        return done.stdout

    return run


@pytest.fixture(scope="session")
def shows_something() -> Callable[[Path], None]:
    """Checks that a picture is large enough to read, and has more on it than axes."""

    def check(picture: Path) -> None:
        pixels = imread(picture)[..., :3]
        assert pixels.shape[0] > 400
        assert pixels.shape[1] > 1000
        assert 0.003 < (pixels.mean(-1) < 0.9).mean() < 0.6
        # Lines in colour, not axes alone.
        assert (np.ptp(pixels, axis=-1) > 0.3).mean() > 0.001

    return check


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str, list[str]], str]:
    """What an example says on standard error to arguments that it refuses."""

    def said(name: str, arguments: list[str]) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        assert exit_.value.code == 2
        return " ".join(capsys.readouterr().err.split())

    return said
