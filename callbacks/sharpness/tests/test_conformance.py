"""The methods of the family keep the ten rules, with no exceptions asked for."""

from __future__ import annotations

from typing import Any

from thunderstone.testing import Subject, parametrize_with_checks
from thunderstone_sharpness import ASAM, IGNITE, MESA, SAF, SAM, GradientNorm

# One module of the zoo calls its own forward, whose output these capture by default; in the others they have to be told
# where it is.
OUTPUTS = {
    "cnn": {"output": "head"},
    "transformer": {"output": "head"},
    "lstm": {"output": "recurrent:0"},
    "dict_output": {"output": "layer"},
    "metrics": {"output": "net"},
    "groups": {"output": "head"},
    "stream": {"output": "net"},
}
# A stream has no sample indices.
WITH_INDICES = ("mlp", *(name for name in OUTPUTS if name != "stream"))
# The gradient of a linear model's output is the same whatever its weights, and IGNITE has nothing to do.
NOT_LINEAR = ("mlp", *(name for name in OUTPUTS if name != "dict_output"))


@parametrize_with_checks(
    [
        Subject("sam", SAM, neutral=lambda: SAM(rho=0.0)),
        Subject("asam", ASAM, neutral=lambda: ASAM(rho=0.0)),
        Subject("gradient_norm", GradientNorm, neutral=lambda: GradientNorm(alpha=0.0)),
        Subject(
            "saf",
            lambda: SAF(start_epoch=1, epochs_back=1, weight=1.0),
            neutral=lambda: SAF(weight=0.0),
            zoo=WITH_INDICES,
            module_arguments=OUTPUTS,
        ),
        Subject(
            "mesa",
            lambda: MESA(start_epoch=0, decay=0.5),
            neutral=lambda: MESA(weight=0.0),
            module_arguments=OUTPUTS,
        ),
        Subject("ignite", IGNITE, neutral=lambda: IGNITE(rho=0.0), zoo=NOT_LINEAR, module_arguments=OUTPUTS),
    ]
)
def test_conformance(method: Any, check: Any) -> None:
    check(method)
