"""SAM and ASAM keep the ten rules, with no exceptions asked for."""

from __future__ import annotations

from typing import Any

from thunderstone.testing import Subject, parametrize_with_checks
from thunderstone_sharpness import ASAM, SAM


@parametrize_with_checks(
    [
        Subject("sam", SAM, neutral=lambda: SAM(rho=0.0)),
        Subject("asam", ASAM, neutral=lambda: ASAM(rho=0.0)),
    ]
)
def test_conformance(method: Any, check: Any) -> None:
    check(method)
