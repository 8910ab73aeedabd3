"""The example of SVRG runs as it stands, in its short form, and leaves behind what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "svrg_digits.py"
PLAIN = ["SGD", "SGD, 3 × epochs"]
CORRECTED = ["SVRG, α = 1", "SVRG, α = 0.75 decaying", "SVRG, best α a layer"]
MODELS = ["logistic regression", "network"]


@pytest.mark.slow
def test_svrg_digits(
    short_run: Callable[[str, Path], str], shows_something: Callable[[Path], None], tmp_path: Path
) -> None:
    short_run("svrg_digits", tmp_path)

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

    shows_something(tmp_path / "svrg_digits.png")
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == len(outcomes)
    assert all(list(folder.glob("run-*.wandb")) for folder in folders)


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--seeds", "0"], "0 is less than 1"), (["--epochs", "-3"], "-3 is less than 1")]
)
def test_bad_requests(arguments: list[str], message: str, refusal: Callable[[str, list[str]], str]) -> None:
    assert message in refusal("svrg_digits", arguments)
