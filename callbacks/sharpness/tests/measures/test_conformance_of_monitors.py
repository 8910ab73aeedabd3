"""Both monitors keep the ten rules; a monitor's default setting leaves the weights as they would be without it."""

from __future__ import annotations

import doctest
from functools import partial
from importlib import import_module
from typing import Any

import pytest

from thunderstone.testing import Subject, parametrize_with_checks
from thunderstone_sharpness import OpposingSignals, SharpnessMonitor

# Small, so that a run of two epochs on every module takes a moment.
monitor = partial(
    SharpnessMonitor,
    measures=("average_sharpness", "worst_case_sharpness", "hessian_trace", "landscape"),
    examples=8,
    batch_size=4,
    draws=1,
    probes=1,
    steps=1,
    points=3,
)
signals = partial(OpposingSignals, examples=8, every_n_steps=2, fraction=0.2)


@parametrize_with_checks(
    [
        Subject("sharpness_monitor", monitor, changes_weights=False),
        Subject("opposing_signals", signals, changes_weights=False),
    ]
)
def test_conformance(method: Any, check: Any) -> None:
    check(method)


@pytest.mark.parametrize("name", ["adaptive", "eigenvalues", "logits", "metrics", "opposing"])
def test_examples_in_docstrings(name: str) -> None:
    result = doctest.testmod(import_module(f"thunderstone_sharpness.measures.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
