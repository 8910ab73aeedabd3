"""The family on two replicas."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

PROGRAM = Path(__file__).with_name("data_parallel_program.py")


@pytest.fixture(scope="module")
def ranks(replicas: Callable[[Path], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What both replicas ended with, by experiment."""
    return replicas(PROGRAM)


def differing(first: Any, second: Any) -> list[str]:
    """Names under which two states are not the same bits."""
    if isinstance(first, Tensor):
        return [] if torch.equal(first, second) else [f"by {(first.double() - second.double()).abs().max():.2g}"]
    assert first.keys() == second.keys()
    return [f"{key}: {found}" for key in first for found in differing(first[key], second[key])]


@pytest.mark.ddp
@pytest.mark.slow
def test_two_replicas_are_one_process_with_the_joint_batch(ranks: list[dict[str, Any]]) -> None:
    sys.path.insert(0, str(PROGRAM.parent))
    try:
        from data_parallel_program import in_order
    finally:
        sys.path.remove(str(PROGRAM.parent))
    alone, together = in_order(1), ranks[0]["in order"]
    torch.testing.assert_close(together["weights"], alone["weights"], rtol=1e-5, atol=1e-6)
    # No replica has seen more than half of the samples itself.
    assert torch.equal(together["saf.written"], alone["saf.written"])
    torch.testing.assert_close(together["saf.logits"], alone["saf.logits"], rtol=1e-4, atol=1e-5)
    assert set(together["saf.owner"].tolist()) == {0, 1}


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["in order", "whole", "resumed", "views of 1", "views of 2"])
def test_replicas_stay_equal(ranks: list[dict[str, Any]], experiment: str) -> None:
    assert differing(ranks[0][experiment], ranks[1][experiment]) == []


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_resumed_run_ends_with_the_same_bits(ranks: list[dict[str, Any]], rank: int) -> None:
    assert differing(ranks[rank]["resumed"], ranks[rank]["whole"]) == []


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_that_the_second_pass_would_overwrite_are_kept(ranks: list[dict[str, Any]], accumulate: int) -> None:
    views, copies = (ranks[0][f"{what} of {accumulate}"] for what in ("views", "copies"))
    assert differing(views, copies) == []
    assert len({tuple(found["weights"].tolist()) for found in copies.values()}) == len(copies)
