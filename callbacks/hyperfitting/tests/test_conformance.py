"""The method keeps the ten rules, with no exceptions asked for."""

from __future__ import annotations

from functools import partial
from typing import Any

from thunderstone.testing import Subject, parametrize_with_checks
from thunderstone_hyperfitting import Hyperfit

# Not the stream, whose samples cannot be chosen: that is refused, and `test_hyperfit.py` looks at the message.
MAPS = ("mlp", "cnn", "transformer", "lstm", "dict_output", "metrics", "groups")


@parametrize_with_checks(
    [
        Subject(
            "hyperfit",
            Hyperfit,
            neutral=lambda: Hyperfit(enabled=False),
            zoo=MAPS,
            # Without dropout the first loss is another one.
            plain_first_step=False,
        )
    ]
)
def test_conformance(method: Any, check: Any) -> None:
    check(method)


# 27 of the 28 samples make as many batches, so that a run is killed and resumed where the kit means to.
@parametrize_with_checks(
    [Subject("hyperfit_on_a_subset", partial(Hyperfit, samples=27, seed=3), zoo=("mlp",), plain_first_step=False)],
    checks=["resumes_mid_epoch", "resumes_mid_accumulation", "resumes_under_ddp", "runs_under_ddp", "clean_after_fit"],
)
def test_conformance_on_a_subset(method: Any, check: Any) -> None:
    check(method)
