"""The methods of the family keep the ten rules."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from thunderstone.testing import Subject, parametrize_with_checks
from thunderstone.testing.zoo import CASES, MLP
from thunderstone_pruning import IMP, SNIP, FixedMask, GradualPruning, GraNet, RandomPruning, RandomSearch
from thunderstone_pruning.mask_files import Ticket
from thunderstone_pruning.prunable import prunable_parameters

# Of a stream nobody knows the length, so moments have to be told in updates.
WITH_LENGTH = tuple(name for name in CASES if name != "stream")

_FOLDER = TemporaryDirectory(prefix="thunderstone-")


def every_other_weight() -> str:
    """A file of masks for the perceptron of the zoo, written once."""
    with torch.random.fork_rng(devices=[]):
        parameters = prunable_parameters(MLP())
    masks = {name: (torch.arange(p.numel()) % 2 == 0).view_as(p) for name, p in parameters.items()}
    return str(Ticket(masks).save(Path(_FOLDER.name) / "masks.ckpt"))


MASKS = every_other_weight()


@parametrize_with_checks(
    [
        Subject(
            "random_pruning",
            lambda: RandomPruning(0.5),
            neutral=lambda: RandomPruning(1.0),
            plain_first_step=False,
        ),
        Subject("fixed_mask", lambda: FixedMask(MASKS), zoo=("mlp",), plain_first_step=False),
        Subject(
            "imp",
            lambda: IMP(rounds=1),
            neutral=lambda: IMP(rounds=0),
            expected_failures={
                "counts_hooks_once": "each round is a training of its own, and hooks run in every one of them",
                "counts_logs_once": "each round is a training of its own, and what it logs is logged",
                "reports_at_the_right_step": "a round is announced at the step at which it begins",
            },
        ),
        Subject(
            "random_search",
            lambda: RandomSearch(0.5, candidates=3),
            neutral=lambda: RandomSearch(1.0),
            plain_first_step=False,
        ),
        Subject("snip", lambda: SNIP(0.5), neutral=lambda: SNIP(1.0), plain_first_step=False),
        Subject(
            "gradual_pruning",
            lambda: GradualPruning(0.3, interval=2, empty="keep_one"),
            neutral=lambda: GradualPruning(1.0),
            module_arguments={"stream": {"stop": 6}},
        ),
        Subject(
            "granet",
            lambda: GraNet(0.3, interval=2, empty="keep_one"),
            neutral=lambda: GraNet(1.0),
            zoo=WITH_LENGTH,
        ),
    ]
)
def test_conformance(method: Any, check: Any) -> None:
    check(method)
