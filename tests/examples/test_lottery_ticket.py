"""The example of lottery tickets runs as it stands, in its short form, and leaves behind what it says."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from thunderstone_pruning import load_ticket

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "lottery_ticket.py"
SETTINGS = ["tickets", "late rewinding", "reinitialised", "random masks"]
SEEDS = 2


@pytest.mark.slow
def test_lottery_ticket(tmp_path: Path) -> None:
    # What is quiet for users must be: the suite's own settings silence W&B.
    environment = {key: value for key, value in os.environ.items() if key not in ("WANDB_SILENT", "WANDB_MODE")}
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--fast", "--output", tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for noise in ("Warning", "GPU available", "wandb:"):
        assert noise not in done.stderr + done.stdout
    assert str(tmp_path) in done.stdout.replace("\n", "")

    outcomes: list[dict[str, Any]] = json.loads((tmp_path / "lottery_ticket.json").read_text())
    # Four trainings of the dense network and three tickets, two ways to rewind, and two controls of the last ticket.
    assert len(outcomes) == SEEDS * (2 * 4 + 2)
    for outcome in outcomes:
        assert outcome["early_stop"] % 20 == 0
        assert 0 < outcome["early_stop"] <= 120
        # Of a layer's weights two fifths stay each time, in the output layer seven tenths.
        left = (64 * 300 + 300 * 100) * 0.4 ** outcome["round"] + 100 * 10 * 0.7 ** outcome["round"]
        assert outcome["remaining"] == pytest.approx(100 * left / 50_200, abs=0.01)

    def accuracy(setting: str, number: int) -> list[float]:
        return [one["accuracy"] for one in outcomes if (one["setting"], one["round"]) == (setting, number)]

    # Both begin with the same dense network, and part when one of them is rewound to a later place.
    assert accuracy("tickets", 0) == accuracy("late rewinding", 0)
    assert accuracy("tickets", 3) != accuracy("late rewinding", 3)
    assert min(accuracy("tickets", 0)) > 90
    # What it is for: with these weights a fourteenth of them does, with others it does not.
    assert min(accuracy("tickets", 3)) > 85
    for control in SETTINGS[2:]:
        assert max(accuracy(control, 3)) < min(accuracy("tickets", 3))

    lines = (tmp_path / "lottery_ticket.md").read_text(encoding="utf-8").splitlines()
    header, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line)
    assert header == ["weights left", *(f"{what}: {name}" for what in ("accuracy", "early stop") for name in SETTINGS)]
    assert [row[0] for row in rows] == ["100.0%", "7.0%"]
    found = accuracy("tickets", 3)
    assert rows[1][1] == f"{mean(found):.1f} ± {stdev(found):.1f}"
    assert rows[0][3:5] == rows[0][7:] == ["", ""]
    assert rows[1][1] in done.stdout

    # A ticket is what it was called, and its weights are those the dense network began with.
    tickets = [load_ticket(tmp_path / "tickets" / "tickets-0" / f"round-{number}.ckpt") for number in (1, 2, 3)]
    assert tickets[0].weights is not None
    assert tickets[2].weights is not None
    assert all(tickets[0].weights[name].equal(tickets[2].weights[name]) for name in tickets[0].weights)
    assert all(bool((tickets[0].masks[name] | ~tickets[2].masks[name]).all()) for name in tickets[0].masks)

    pixels = imread(tmp_path / "lottery_ticket.png")[..., :3]
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 1000
    assert 0.005 < (pixels.mean(-1) < 0.9).mean() < 0.5
    assert (np.ptp(pixels, axis=-1) > 0.3).mean() > 0.001
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == SEEDS * 4
    assert all(list(folder.glob("run-*.wandb")) for folder in folders)
    # Tickets are in W&B's files of those runs that drew some.
    tracked = [b"imp-ticket" in next(folder.glob("run-*.wandb")).read_bytes() for folder in folders]
    assert sum(tracked) == SEEDS * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "0 is less than 1"),
        (["--steps", "-3"], "-3 is less than 1"),
        (["--data", "nowhere"], "no t10k-images-idx3-ubyte.gz and no t10k-labels-idx1-ubyte.gz in"),
    ],
)
def test_bad_requests(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lottery_ticket.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert exit_.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
