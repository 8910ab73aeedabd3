"""Both methods keep the ten rules; the monitor leaves the weights as they would be without it."""

from __future__ import annotations

from functools import partial
from typing import Any

from thunderstone.testing import Subject, parametrize_with_checks
from thunderstone_estimators import SVRG, GradientVariance

# Small, so that a run of two epochs on every module takes a moment.
monitor = partial(GradientVariance, every_n_steps=2, draws=2)


@parametrize_with_checks(
    [
        Subject("svrg", SVRG, neutral=lambda: SVRG(alpha=0.0)),
        Subject("gradient_variance", monitor, changes_weights=False),
    ]
)
def test_conformance(method: Any, check: Any) -> None:
    check(method)
