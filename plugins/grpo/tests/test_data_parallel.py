"""GRPO on two replicas, one of which is slower."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

PROGRAM = Path(__file__).with_name("two_processes.py")
EXPERIMENTS = ("dapo", "grpo", "dr_grpo", "keep")


@pytest.fixture(scope="module")
def ranks(replicas: Callable[[Path], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What both replicas ended with, by experiment."""
    return replicas(PROGRAM)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process with the joint batches ends with."""
    experiments: dict[str, Any] = runpy.run_path(str(PROGRAM))["experiments"](1)
    return experiments


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_two_replicas_are_one_process_with_the_joint_batch(
    ranks: list[dict[str, Any]], alone: dict[str, Any], experiment: str
) -> None:
    first, second, expected = ranks[0][experiment], ranks[1][experiment], alone[experiment]
    assert torch.equal(first["weights"], second["weights"])
    # One reports, and of both.
    assert list(second) == ["weights"]
    assert first.keys() == expected.keys()
    assert {"grpo/reward", "grpo/entropy", "grpo/dead_groups"} <= {name.partition(" ")[0] for name in first}
    for name, value in first.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")
