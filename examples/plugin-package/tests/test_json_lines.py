"""What is in the file, and when it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from thunderstone import ArgumentError, Artifact, Method, Table

from thunderstone_flint import GradientNoise, JsonLines
from thunderstone_flint.json_lines import contents


class Reporter(Method):
    """Reports one of everything when an epoch is over."""

    name = "reporter"

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.record("loss", torch.tensor(float("nan")))
        self.record("layers", Table(["name", "norm"], [["net.0", torch.tensor(2.0)]]))
        weights = Path(trainer.default_root_dir, "weights.pt")
        torch.save(pl_module.state_dict(), weights)
        self.record("weights", Artifact(weights, "weights", {"epoch": 0}))
        self.record("figure", Figure())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_record_is_a_line(tmp_path: Path, fit: Any, module: Any) -> None:
    path = tmp_path / "records.jsonl"
    fit(module(), JsonLines(str(path)), GradientNoise(eta=1.0, gamma=0), Reporter(), log_every_n_steps=3)
    noise = [{"key": "gradient_noise/standard_deviation", "step": step, "epoch": 0, "value": 1.0} for step in (2, 5)]
    place = {"step": 5, "epoch": 0}
    artifact = {"path": str(tmp_path / "weights.pt"), "type": "weights", "metadata": {"epoch": 0}}
    assert lines(path) == [
        *noise,
        {"key": "reporter/loss", **place, "value": "nan"},
        {"key": "reporter/layers", **place, "columns": ["name", "norm"], "rows": [["net.0", 2.0]]},
        {"key": "reporter/weights", **place, **artifact},
    ]


def test_lines_are_added_to_a_file_that_exists(tmp_path: Path, fit: Any, module: Any) -> None:
    path = tmp_path / "records.jsonl"
    for _ in range(2):
        fit(module(), GradientNoise(), JsonLines(str(path)), log_every_n_steps=6)
    assert [line["step"] for line in lines(path)] == [5, 5]


def test_two_files_at_once(tmp_path: Path, fit: Any, module: Any) -> None:
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    fit(module(), *(JsonLines(str(path)) for path in paths), GradientNoise(), log_every_n_steps=1)
    assert len(lines(paths[0])) == 6
    assert lines(paths[0]) == lines(paths[1])


def test_a_trial_run_writes_nothing(tmp_path: Path, fit: Any, module: Any) -> None:
    fit(module(), JsonLines(str(tmp_path / "records.jsonl")), GradientNoise(), fast_dev_run=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_text_is_left_out() -> None:
    assert contents(Figure()) is None
    assert contents(torch.ones(2)) is None
    assert contents(True) == {"value": True}


@pytest.mark.parametrize(("path", "reason"), [("nowhere/x.jsonl", "no folder 'nowhere'"), (".", "it is a folder")])
def test_a_path_that_cannot_be_written_is_refused_before_training(
    path: str, reason: str, fit: Any, module: Any
) -> None:
    with pytest.raises(ArgumentError, match=f"JsonLines: path=.*{reason}.* HINT: "):
        fit(module(), JsonLines(path))


@pytest.mark.parametrize("path", [None, 3, ""])
def test_a_path_is_a_text(path: Any) -> None:
    with pytest.raises(ArgumentError, match="JsonLines: path="):
        JsonLines(path)
