"""The same with real processes that die by SIGKILL, one at a time and two together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted_runs import differences_after_resume, last_checkpoint, resume, run_to_the_end, start
from resumable_program import Setting
from warm_interpreter import WarmInterpreter

EVERYTHING = ("torch", "numpy", "python", "own")
KEY = "thunderstone.resume.exact_resume.ExactResume"


def outcomes(folder: Path, name: str, ranks: int) -> list[dict[str, Any]]:
    """What each rank wrote down at the end."""
    return [torch.load(folder / f"{name}.{rank}", weights_only=False) for rank in range(ranks)]


def kill(interpreter: WarmInterpreter, setting: Setting, folder: Path) -> Path:
    """The last checkpoint of a process that died by SIGKILL at ``kill_at``."""
    killed = start(interpreter, replace(setting, kill_in="signal"), folder, "killed")
    assert killed.returncode != 0
    assert not list(folder.glob("killed.0"))
    return last_checkpoint(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize(
    "case",
    [
        {"kill_at": 12, "accumulate": 3, "checkpoint": {"every_n_train_steps": 1, "save_top_k": -1}},
        {"kill_at": 18, "workers": 2, "persistent": True, "save": ("on_train_batch_end", 17), "accumulate": 2},
        {"kill_at": 15, "workers": 2, "loader": "stateful", "checkpoint": {"monitor": "val_loss", "save_top_k": -1}},
    ],
    ids=["no workers", "persistent workers", "StatefulDataLoader"],
)
def test_one_process(case: dict[str, Any], warm_interpreter: WarmInterpreter, tmp_path: Path) -> None:
    setting = Setting(augment=EVERYTHING, **case)
    checkpoint = kill(warm_interpreter, setting, tmp_path / "killed")
    whole = run_to_the_end(setting, tmp_path / "whole")
    assert differences_after_resume(whole, resume(setting, checkpoint)) == []


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_between_two_micro_batches(warm_interpreter: WarmInterpreter, tmp_path: Path) -> None:
    setting = Setting(
        augment=EVERYTHING,
        devices=2,
        workers=1,
        samples=40,
        epochs=2,
        accumulate=2,
        save=("on_train_batch_end", 8),
        kill_at=9,
    )
    checkpoint = kill(warm_interpreter, setting, tmp_path / "killed")
    whole = start(warm_interpreter, replace(setting, kill_at=None), tmp_path / "whole", "whole")
    assert whole.returncode == 0, whole.stderr[-3000:]
    going_on = replace(setting, kill_at=None, save=None, seed=99, resume_from=str(checkpoint))
    resumed = start(warm_interpreter, going_on, tmp_path / "killed", "resumed")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "ExactResume" not in resumed.stderr
    pairs = zip(outcomes(tmp_path / "whole", "whole", 2), outcomes(tmp_path / "killed", "resumed", 2), strict=True)
    assert [differences_after_resume(*pair) for pair in pairs] == [[], []]
    ranks = torch.load(checkpoint, weights_only=True)["callbacks"][KEY]["ranks"]
    one, other = (rank["gradients"]["net.0.weight"] for rank in ranks)
    assert not torch.equal(one, other)
