"""The method keeps the ten rules; what owning the objective rules out is declared."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from causal import Evaluated, few_prompts_loader, prompts_loader, validation_loader

from thunderstone.testing import Subject, parametrize_with_checks
from thunderstone.testing.zoo import Case
from thunderstone_grpo import GRPO

_PARTS = "a rollout of one minibatch cannot be part of an accumulated update, which is refused; see below for others"
_NOT_CALLED = "GRPO owns the objective: the module's training_step is not called, "

# A zoo's modules classify; GRPO asks for one that writes. By name, as the command line would give it.
SMALL = {"reward": "causal:evens", "group_size": 4, "max_new_tokens": 4, "stop_tokens": [1]}


@parametrize_with_checks(
    [
        Subject(
            "grpo",
            partial(GRPO, **SMALL),
            neutral=partial(GRPO, **SMALL, enabled=False),
            cases=[Case("causal", Evaluated, prompts_loader, validation_loader)],
            plain_first_step=False,
            expected_failures={
                "counts_logs_once": _NOT_CALLED + "so what it logs is not logged",
                "clean_after_exception": _NOT_CALLED + "so an exception in it never happens",
                "clean_after_keyboard_interrupt": _NOT_CALLED + "so Ctrl-C in it never happens",
                "resumes_mid_accumulation": _PARTS,
                "resumes_under_ddp": _PARTS,
            },
        )
    ]
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
