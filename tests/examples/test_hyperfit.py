"""Both examples of hyperfitting run as they stand, in their short form, and leave behind what they say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def run(
    short_run: Callable[[str, Path], str], shows_something: Callable[[Path], None], tmp_path: Path
) -> Callable[[str], tuple[dict[str, Any], str]]:
    """Runs an example by its name; gives what it wrote to its file of numbers, and what it printed."""

    def of(name: str) -> tuple[dict[str, Any], str]:
        printed = short_run(name, tmp_path)
        shows_something(tmp_path / f"{name}.png")
        (tracked,) = (tmp_path / "wandb").glob("offline-run-*")
        assert list(tracked.glob("run-*.wandb"))
        return json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8")), printed

    return of


def table_of(path: Path) -> list[list[str]]:
    """The rows of a Markdown table, header first, without the line of dashes."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in path.read_text("utf-8").splitlines()
    ]
    assert set("".join(rows[1])) == {"-"}
    assert len({len(row) for row in rows}) == 1
    return [rows[0], *rows[2:]]


@pytest.mark.slow
def test_hyperfit(run: Callable[[str], tuple[dict[str, Any], str]], tmp_path: Path) -> None:
    found, printed = run("hyperfit")
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
def test_hyperfit_images(run: Callable[[str], tuple[dict[str, Any], str]], tmp_path: Path) -> None:
    found, _ = run("hyperfit_images")
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


def test_a_file_that_is_not_there(refusal: Callable[[str, list[str]], str]) -> None:
    assert "there is no file nowhere.txt; give a text in UTF-8" in refusal("hyperfit", ["--data", "nowhere.txt"])
