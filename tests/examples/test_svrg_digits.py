"""The example of SVRG runs as it stands, in its short form, and leaves behind what it says."""

from __future__ import annotations

import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "svrg_digits.py"
PLAIN = ["SGD", "SGD, 3 × epochs"]
CORRECTED = ["SVRG, α = 1", "SVRG, α = 0.75 decaying", "SVRG, best α a layer"]
MODELS = ["logistic regression", "network"]


@pytest.mark.slow
def test_svrg_digits(tmp_path: Path) -> None:
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

    lines = (tmp_path / "svrg_digits.md").read_text(encoding="utf-8").splitlines()
    header, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line)
    assert [row[0] for row in rows] == PLAIN + CORRECTED
    assert all(len(row) == len(header) for row in rows)
    assert [row[1] for row in rows] == ["3", "9", "9", "9", "9"]

    outcomes: list[dict[str, Any]] = json.loads((tmp_path / "svrg_digits.json").read_text())
    assert len(outcomes) == len(MODELS) * len(PLAIN + CORRECTED)
    for outcome in outcomes:
        assert outcome["accuracy"] > 60
        assert outcome["seconds"] > 0
        assert len(outcome["losses"]) == (9 if outcome["setting"] == PLAIN[1] else 3)
        assert all(math.isfinite(loss) for loss in outcome["losses"])
        assert all(variance >= 0 for variance in outcome["variances"])
        if outcome["setting"] in PLAIN:
            assert set(outcome["ratios"]) == {1.0}

    def ratio(model: str, setting: str) -> float:
        return float(np.mean([o["ratios"] for o in outcomes if (o["model"], o["setting"]) == (model, setting)]))

    # What it is for: on a convex problem every kind of it lowers the variance.
    assert all(ratio("logistic regression", setting) < 1 for setting in CORRECTED)

    pixels = imread(tmp_path / "svrg_digits.png")[..., :3]
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 1000
    assert 0.005 < (pixels.mean(-1) < 0.9).mean() < 0.5
    assert (np.ptp(pixels, axis=-1) > 0.3).mean() > 0.001
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == len(outcomes)
    assert all(list(folder.glob("run-*.wandb")) for folder in folders)


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--seeds", "0"], "0 is less than 1"), (["--epochs", "-3"], "-3 is less than 1")]
)
def test_bad_requests(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["svrg_digits.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert exit_.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
