"""The same with real processes that die by SIGKILL, one at a time and two together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted_runs import differences_after_resume, last_checkpoint, start
from resumable_program import Setting

EVERYTHING = ("torch", "numpy", "python", "own")


def outcomes(folder: Path, name: str, ranks: int) -> list[dict[str, Any]]:
    """What each rank wrote down at the end."""
    return [torch.load(folder / f"{name}.{rank}", weights_only=False) for rank in range(ranks)]


def killed_and_resumed(setting: Setting, tmp_path: Path) -> list[list[str]]:
    """By rank, where the resumed run differs from the uninterrupted one."""
    setting = replace(setting, kill_in="signal")
    whole = start(replace(setting, kill_at=None), tmp_path / "whole", "whole")
    assert whole.returncode == 0, whole.stderr[-3000:]
    killed = start(setting, tmp_path / "killed", "killed")
    assert killed.returncode != 0
    assert not (tmp_path / "killed" / "killed.0").exists()
    going_on = replace(setting, kill_at=None, save=None, seed=99, resume_from=str(last_checkpoint(tmp_path / "killed")))
    resumed = start(going_on, tmp_path / "killed", "resumed")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "ExactResume" not in resumed.stderr
    ranks = setting.devices
    pairs = zip(
        outcomes(tmp_path / "whole", "whole", ranks), outcomes(tmp_path / "killed", "resumed", ranks), strict=True
    )
    return [differences_after_resume(*pair) for pair in pairs]


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        {"kill_at": 12, "accumulate": 3, "checkpoint": {"every_n_train_steps": 1, "save_top_k": -1}},
        {"kill_at": 18, "workers": 2, "persistent": True, "save": ("on_train_batch_end", 17), "accumulate": 2},
        {"kill_at": 15, "workers": 2, "loader": "stateful", "checkpoint": {"monitor": "val_loss", "save_top_k": -1}},
    ],
    ids=["no workers", "persistent workers", "StatefulDataLoader"],
)
def test_one_process(case: dict[str, Any], tmp_path: Path) -> None:
    assert killed_and_resumed(Setting(augment=EVERYTHING, **case), tmp_path) == [[]]


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize(
    "case",
    [
        {"save": ("on_train_batch_end", 9), "kill_at": 10, "accumulate": 2, "workers": 1, "samples": 56},
        {"save": ("on_train_epoch_end", 1), "kill_at": 9, "samples": 56},
    ],
    ids=["mid-accumulation", "epoch end"],
)
def test_two_processes(case: dict[str, Any], tmp_path: Path) -> None:
    assert killed_and_resumed(Setting(augment=EVERYTHING, devices=2, **case), tmp_path) == [[], []]
