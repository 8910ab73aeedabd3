"""SVRG and GradientVariance on two replicas."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

PROGRAM = Path(__file__).with_name("two_processes.py")
EXPERIMENTS = ("fixed", "optimal", "accumulated", "local", "svrg of local")


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
def test_replicas_are_equal(ranks: list[dict[str, Any]], experiment: str) -> None:
    first, second = (rank[experiment] for rank in ranks)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_two_replicas_are_one_process_with_the_joint_batch(
    ranks: list[dict[str, Any]], alone: dict[str, Any], experiment: str
) -> None:
    together, expected = ranks[0][experiment], alone[experiment]
    assert together.keys() == expected.keys()
    assert sum(name.startswith("variance") for name in together) == (0 if experiment == "accumulated" else 3)
    for name, value in together.items():
        torch.testing.assert_close(
            value, expected[name], rtol=1e-9, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}"
        )
    if experiment == "local":
        torch.testing.assert_close(together["variance 1"], 4 * together["plain 1"])
    elif experiment == "fixed":
        assert together["variance 1"].sum() < 0.1 * together["plain 1"].sum()
