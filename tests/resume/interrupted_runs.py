"""Running a setting to its end, running it until it dies, and going on from the checkpoint it left."""

from __future__ import annotations

import os
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from resumable_program import Killed, Setting, make, outcome
from warm_interpreter import Finished, WarmInterpreter

PROGRAM = Path(__file__).with_name("resumable_program.py")


def differences(expected: Any, actual: Any, path: str = "") -> list[str]:
    """Where two outcomes differ in a single bit, as paths with both values."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        found = [f"{path}/{key}: only in one" for key in expected.keys() ^ actual.keys()]
        for key in expected.keys() & actual.keys():
            found += differences(expected[key], actual[key], f"{path}/{key}")
        return found
    if isinstance(expected, torch.Tensor):
        return [] if torch.equal(expected, actual) else [f"{path}: another tensor"]
    same = expected == actual or (expected != expected and actual != actual)
    return [] if same else [f"{path}: {str(expected)[:200]} is not {str(actual)[:200]}"]


def differences_after_resume(whole: dict[str, Any], resumed: dict[str, Any]) -> list[str]:
    """Where a resumed run's outcome differs from the uninterrupted one's, of which it has seen the last part."""
    first = min((number for number, *_ in resumed["seen"]), default=10**9)
    part = {
        **whole,
        "seen": [entry for entry in whole["seen"] if entry[0] >= first],
        "logged": whole["logged"][len(whole["logged"]) - len(resumed["logged"]) :],
    }
    return differences(part, resumed)


def run_to_the_end(setting: Setting, folder: Path) -> dict[str, Any]:
    """The outcome of the run nobody interrupts."""
    folder.mkdir()
    trainer, model = make(replace(setting, folder=str(folder), kill_at=None))
    trainer.fit(model)
    return outcome(trainer, model)


def run_until_killed(setting: Setting, folder: Path) -> Path:
    """The last checkpoint of a run that dies at ``kill_at``."""
    folder.mkdir()
    trainer, model = make(replace(setting, folder=str(folder)))
    try:
        trainer.fit(model)
    except Killed:
        return last_checkpoint(folder)
    raise AssertionError(f"the run ended before batch {setting.kill_at}")


def last_checkpoint(folder: Path) -> Path:
    """The checkpoint written last."""
    return max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)


def resume(setting: Setting, checkpoint: Path) -> dict[str, Any]:
    """The outcome of a run that goes on from a checkpoint, with everything made anew and other seeds."""
    trainer, model = make(
        replace(setting, folder=str(checkpoint.parent), kill_at=None, save=None, seed=setting.seed + 92)
    )
    torch.rand(3), np.random.rand(3), random.random()
    trainer.fit(model, ckpt_path=checkpoint)
    return outcome(trainer, model)


def interrupted(setting: Setting, tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The outcomes of the uninterrupted run and of the one that was killed and resumed."""
    whole = run_to_the_end(setting, tmp_path / "whole")
    checkpoint = run_until_killed(setting, tmp_path / "killed")
    return whole, resume(setting, checkpoint)


def check_exact(setting: Setting, tmp_path: Path) -> None:
    """Assert that an interruption leaves no trace."""
    found = differences_after_resume(*interrupted(setting, tmp_path))
    assert not found, "\n".join(sorted(found))


def start(interpreter: WarmInterpreter, setting: Setting, folder: Path, name: str) -> Finished:
    """Run the program in as many processes as it has devices; their outcomes are at ``folder/name.RANK``."""
    folder.mkdir(exist_ok=True)
    description = folder / f"{name}.json"
    description.write_text(replace(setting, folder=str(folder)).to_json())
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PL_", "LOCAL_", "NODE_", "WORLD_"))},
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    program = [PROGRAM, description, folder / name]
    if setting.devices == 1:
        return interpreter.run(program, Path.cwd(), environment)
    ranks = interpreter.run_ranks(program, Path.cwd(), environment, setting.devices)
    return next((rank for rank in ranks if rank.returncode), ranks[0])
