"""The methods of the family keep the ten rules, with no exceptions asked for."""

from __future__ import annotations

from typing import Any

from thunderstone.testing import Subject, parametrize_with_checks
from thunderstone_sharpness import ASAM, IGNITE, MESA, SAF, SAM, GradientNorm

# These capture the output of the module's own forward, which is called in one module of the zoo; their own tests have
# submodules, dicts and tuples.
OWN_FORWARD = ("mlp",)


@parametrize_with_checks(
    [
        Subject("sam", SAM, neutral=lambda: SAM(rho=0.0)),
        Subject("asam", ASAM, neutral=lambda: ASAM(rho=0.0)),
        Subject("gradient_norm", GradientNorm, neutral=lambda: GradientNorm(alpha=0.0)),
        Subject(
            "saf",
            lambda: SAF(start_epoch=1, epochs_back=1, weight=1.0),
            neutral=lambda: SAF(weight=0.0),
            zoo=OWN_FORWARD,
        ),
        Subject(
            "mesa",
            lambda: MESA(start_epoch=0, decay=0.5),
            neutral=lambda: MESA(weight=0.0),
            zoo=OWN_FORWARD,
        ),
        Subject("ignite", IGNITE, neutral=lambda: IGNITE(rho=0.0), zoo=OWN_FORWARD),
    ]
)
def test_conformance(method: Any, check: Any) -> None:
    check(method)
