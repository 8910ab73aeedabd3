"""The method keeps the ten rules, with no exceptions asked for."""

from __future__ import annotations

from functools import partial
from typing import Any

from thunderstone.testing import CHECKS, Subject, parametrize_with_checks, subject_of
from thunderstone_hyperfitting import Hyperfit
from thunderstone_hyperfitting.plugin import thunderstone_methods


# Of rule 8 the workspace's tests try every pair once.
@parametrize_with_checks(
    map(subject_of, thunderstone_methods()), checks=[name for name in CHECKS if name != "composes"]
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
