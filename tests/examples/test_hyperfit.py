"""Both examples of hyperfitting run as they stand, in their short form, and leave behind what they say."""

from __future__ import annotations

import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def short_run(name: str, folder: Path) -> tuple[dict[str, Any], str]:
    """What the short form wrote to its file of numbers, and what it printed."""
    # What is quiet for users must be: the suite's own settings silence W&B.
    environment = {key: value for key, value in os.environ.items() if key not in ("WANDB_SILENT", "WANDB_MODE")}
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", "--fast", "--output", folder],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for noise in ("Warning", "GPU available", "wandb:"):
        assert noise not in done.stderr + done.stdout
    assert str(folder) in done.stdout.replace("\n", "")
    pixels = imread(folder / f"{name}.png")[..., :3]
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 1000
    assert 0.003 < (pixels.mean(-1) < 0.9).mean() < 0.6
    (tracked,) = (folder / "wandb").glob("offline-run-*")
    assert list(tracked.glob("run-*.wandb"))
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return found, done.stdout


def table_of(path: Path) -> list[list[str]]:
    """The rows of a Markdown table, header first, without the line of dashes."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in path.read_text("utf-8").splitlines()
    ]
    assert set("".join(rows[1])) == {"-"}
    assert len({len(row) for row in rows}) == 1
    return [rows[0], *rows[2:]]


@pytest.mark.slow
def test_hyperfit(tmp_path: Path) -> None:
    found, printed = short_run("hyperfit", tmp_path)
    rows = {one["setting"]: one for one in found["rows"]}
    assert list(rows) == [
        "before, greedy", "before, top-p 0.9", "before, entropy-matched temperature", "after, greedy",
        "after, top-p 0.9", "the text itself",
    ]  # fmt: skip
    assert [row[0] for row in table_of(tmp_path / "hyperfit.md")[1:]] == list(rows)
    for one in rows.values():
        assert 0 < one["type_token_ratio"] <= 1
        assert 0 <= one["repetition_2"] < 1
        assert one["overlap"] >= 0
    before, after, matched = (
        rows[name] for name in ("before, greedy", "after, greedy", "before, entropy-matched temperature")
    )
    # Hyperfitting did what it does to the losses, and the control has the entropy it is to have.
    assert after["train_loss"] < before["train_loss"]
    assert after["entropy"] < before["entropy"]
    assert matched["entropy"] == after["entropy"]
    assert 0 < found["temperature"] < 1
    curves = found["curves"]
    assert found["epochs"] == len(curves["hyperfit/train_loss"]) == 6
    # Before, and after the second, fourth and last epoch.
    assert len(curves["hyperfit/entropy"]) == len(curves["hyperfit/type_token_ratio"]) == 4
    assert curves["hyperfit/train_loss"][-1] < curves["hyperfit/train_loss"][0]
    assert math.isclose(curves["hyperfit/val_loss"][0], before["val_loss"], rel_tol=1e-5)
    assert math.isclose(curves["hyperfit/val_loss"][-1], after["val_loss"], rel_tol=1e-5)
    assert math.isclose(curves["hyperfit/type_token_ratio"][-1], after["type_token_ratio"], rel_tol=1e-5)
    texts = (tmp_path / "hyperfit_texts.md").read_text(encoding="utf-8")
    assert all(f"**{name}**" in texts for name in rows)
    assert "million weights" in printed


@pytest.mark.slow
def test_hyperfit_images(tmp_path: Path) -> None:
    found, _ = short_run("hyperfit_images", tmp_path)
    rows = {one["completing"]: one for one in found["rows"]}
    assert [row[0] for row in table_of(tmp_path / "hyperfit_images.md")[1:]] == list(rows)
    itself = rows["the digits themselves"]
    assert itself["reads_right"] > 0.9
    assert itself["different"] == 1
    assert itself["copied"] == itself["pixel_error"] == 0
    for one in rows.values():
        assert 0 <= one["reads_right"] <= 1
    assert rows["after, greedy"]["train_loss"] < rows["before, greedy"]["train_loss"]
    assert rows["before, entropy-matched temperature"]["entropy"] == rows["after, greedy"]["entropy"]
    assert not found["reached"]


def test_a_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["hyperfit.py", "--data", "nowhere.txt"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(EXAMPLES / "hyperfit.py"), run_name="__main__")
    assert exit_.value.code == 2
    assert "there is no file nowhere.txt; give a text in UTF-8" in " ".join(capsys.readouterr().err.split())
