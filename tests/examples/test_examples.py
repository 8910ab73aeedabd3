"""Each example runs as it stands, in its short form, and leaves behind what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


@pytest.fixture
def run(short_run: Callable[[str, Path], str], tmp_path: Path) -> Callable[[str], Run]:
    """Runs an example by its name."""

    def of(name: str) -> Run:
        printed = short_run(name, tmp_path)
        return Run(name, tmp_path, printed, json.loads((tmp_path / f"{name}.json").read_text()))

    return of


def check_output(run: Run, shows_something: Callable[[Path], None]) -> None:
    """What holds for every example: a table, a figure that shows something, and one tracked run each."""
    header, *rows = run.table
    assert [row[0] for row in rows] == list(dict.fromkeys(one["setting"] for one in run.runs))
    assert all(len(row) == len(header) for row in rows)
    assert all(row[0] in run.console for row in rows)
    shows_something(run.folder / f"{run.name}.png")
    folders = list((run.folder / "wandb").glob("offline-run-*"))
    assert len(folders) == len(run.runs)
    assert all(list(folder.glob("run-*.wandb")) for folder in folders)


@pytest.mark.slow
def test_label_noise(run: Callable[[str], Run], shows_something: Callable[[Path], None]) -> None:
    label_noise = run("label_noise")
    check_output(label_noise, shows_something)
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
def test_ignite_surrogate(run: Callable[[str], Run], shows_something: Callable[[Path], None]) -> None:
    ignite_surrogate = run("ignite_surrogate")
    check_output(ignite_surrogate, shows_something)
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
    ("name", "arguments", "message"),
    [
        ("label_noise", ["--data", "nowhere"], "no t10k-images-idx3-ubyte.gz and no t10k-labels-idx1-ubyte.gz in"),
        ("label_noise", ["--seeds", "0"], "0 is less than 1"),
        ("label_noise", ["--noise", "0.2", "40"], "40.0 is no share of the labels"),
        ("ignite_surrogate", ["--epochs", "-3"], "-3 is less than 1"),
    ],
)
def test_bad_requests(name: str, arguments: list[str], message: str, refusal: Callable[[str, list[str]], str]) -> None:
    assert message in refusal(name, arguments)
