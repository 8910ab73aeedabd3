"""Each example runs as it stands, in its short form, and leaves behind what it says."""

from __future__ import annotations

import json
import math
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
METHODS = ["plain", "SAM", "ASAM", "SAF", "MESA", "GradientNorm"]


@dataclass(frozen=True)
class Run:
    """What an example printed and wrote."""

    name: str
    folder: Path
    console: str
    runs: list[dict[str, Any]]

    @property
    def table(self) -> list[list[str]]:
        """The rows of the Markdown table, header first, without the line of dashes."""
        lines = (self.folder / f"{self.name}.md").read_text(encoding="utf-8").splitlines()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert set("".join(rows[1])) == {"-"}
        return [rows[0], *rows[2:]]


def short_run(name: str, folder: Path) -> Run:
    # What is quiet for users must be: the suite's own settings silence W&B.
    environment = {key: value for key, value in os.environ.items() if key not in ("WANDB_SILENT", "WANDB_MODE")}
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", "--fast", "--output", folder],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for noise in ("Warning", "GPU available", "wandb:"):
        assert noise not in done.stderr + done.stdout
    return Run(name, folder, done.stdout, json.loads((folder / f"{name}.json").read_text()))


def check_output(run: Run) -> None:
    """What holds for every example: a table, a figure that shows something, and one tracked run each."""
    header, *rows = run.table
    assert [row[0] for row in rows] == list(dict.fromkeys(one["setting"] for one in run.runs))
    assert all(len(row) == len(header) for row in rows)
    assert all(row[0] in run.console for row in rows)
    assert str(run.folder) in run.console.replace("\n", "")

    pixels = imread(run.folder / f"{run.name}.png")[..., :3]
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 1000
    assert 0.005 < (pixels.mean(-1) < 0.9).mean() < 0.5
    # Lines in colour, not axes alone.
    assert (np.ptp(pixels, axis=-1) > 0.3).mean() > 0.001

    folders = list((run.folder / "wandb").glob("offline-run-*"))
    assert len(folders) == len(run.runs)
    assert all(list(folder.glob("run-*.wandb")) for folder in folders)


@pytest.mark.slow
def test_label_noise(tmp_path: Path) -> None:
    label_noise = short_run("label_noise", tmp_path)
    check_output(label_noise)
    header, *rows = label_noise.table
    assert header == ["setting", "0% wrong", "40% wrong", "sharpness", "λmax", "time a step"]
    assert [row[0] for row in rows] == METHODS
    assert len(label_noise.runs) == 6 * 2 * 2
    for run in label_noise.runs:
        assert 60 < run["accuracy"] <= 100
        assert run["milliseconds_per_step"] > 0
        assert math.isfinite(run["average_sharpness"])
        assert run["largest_eigenvalue"] > 0
        assert (run["memorised"] is None) == (run["noise"] == 0)

    def accuracy(setting: str, noise: float) -> list[float]:
        return [run["accuracy"] for run in label_noise.runs if (run["setting"], run["noise"]) == (setting, noise)]

    # What SAM promises, by a margin that eight epochs reach: every one of its seeds beats every plain one.
    assert min(accuracy("SAM", 0.4)) > max(accuracy("plain", 0.4))
    assert min(accuracy("plain", 0.0)) > max(accuracy("plain", 0.4))
    assert rows[0][1] == f"{np.mean(accuracy('plain', 0.0)):.1f} ± {np.std(accuracy('plain', 0.0), ddof=1):.1f}"
    # No method left the run as it was.
    assert len({(run["average_sharpness"], run["noise"], run["seed"]) for run in label_noise.runs}) == 24


@pytest.mark.slow
def test_ignite_surrogate(tmp_path: Path) -> None:
    ignite_surrogate = short_run("ignite_surrogate", tmp_path)
    check_output(ignite_surrogate)
    header, *rows = ignite_surrogate.table
    assert header[0] == "setting"
    assert [row[0] for row in rows] == ["plain", "IGNITE", "IGNITE, strong"]
    assert len(ignite_surrogate.runs) == 3 * 2
    for run in ignite_surrogate.runs:
        # Better than the mean of the target, whose error is 1; and the ascent ends higher than it began.
        assert run["training_error"] < 1
        assert run["unseen_error"] < 1
        assert len(run["predicted"]) == len(run["judged"]) == 11
        assert run["predicted"][-1] > run["predicted"][0]
        assert run["judged"][-1] > run["judged"][0]
    held_down = [[run["sensitivity"] for run in ignite_surrogate.runs if run["setting"] == row[0]] for row in rows]
    assert max(held_down[2]) < min(held_down[0])
    multipliers = {run["setting"]: run["multiplier"] for run in ignite_surrogate.runs}
    assert multipliers["plain"] == 0 < multipliers["IGNITE"] < multipliers["IGNITE, strong"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label_noise.py", "--data", "nowhere"], "no t10k-images-idx3-ubyte.gz and no t10k-labels-idx1-ubyte.gz in"),
        (["label_noise.py", "--seeds", "0"], "0 is less than 1"),
        (["label_noise.py", "--noise", "0.2", "40"], "40.0 is no share of the labels"),
        (["ignite_surrogate.py", "--epochs", "-3"], "-3 is less than 1"),
    ],
)
def test_bad_requests(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(EXAMPLES / arguments[0]), run_name="__main__")
    assert exit_.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
