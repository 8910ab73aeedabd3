"""The method keeps the ten rules; what owning the objective rules out is declared."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from causal import few_prompts_loader

from thunderstone.testing import CHECKS, Subject, parametrize_with_checks, subject_of
from thunderstone.testing.zoo import Case
from thunderstone_grpo import GRPO
from thunderstone_grpo.conformance import SMALL, Evaluated, validation_loader
from thunderstone_grpo.plugin import thunderstone_methods


# Of rule 8 the workspace's tests try every pair once.
@parametrize_with_checks(
    map(subject_of, thunderstone_methods()), checks=[name for name in CHECKS if name != "composes"]
)
def test_conformance(method: Any, check: Any) -> None:
    check(method)


@pytest.mark.slow
# Every rollout is twelve batches of the loader, so that all of these kill between two updates of one.
@parametrize_with_checks(
    [
        Subject(
            "grpo_between_updates",
            partial(GRPO, **SMALL, updates=2, minibatches=6, kl_weight=0.1, shapers=["unlikeliness"], uplift=True),
            cases=[Case("few", Evaluated, few_prompts_loader, validation_loader)],
        )
    ],
    checks=[
        "resumes_mid_epoch",
        "resumes_mid_accumulation",
        "resumes_under_ddp",
        "checkpoint_is_plain_data",
        "checkpoint_loads_without_the_method",
    ],
)
def test_conformance_between_updates(method: Any, check: Any) -> None:
    check(method)
