"""The methods of the family keep the ten rules."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from thunderstone.testing import Subject, parametrize_with_checks
from thunderstone.testing.zoo import CASES, MLP
from thunderstone.testing.zoo.data import FEATURES
from thunderstone_pruning import (
    IMP,
    SNIP,
    BiP,
    FixedMask,
    FixedStructure,
    GradualPruning,
    GraNet,
    LayerTickets,
    RandomPruning,
    RandomSearch,
    StructuredPruning,
    plan_channels,
)
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


def half_of_the_channels() -> str:
    """A file of a smaller perceptron, written once."""
    with torch.random.fork_rng(devices=[]):
        structure = plan_channels(MLP(), lambda module: module(torch.randn(4, FEATURES)), 0.5)
    return str(structure.save(Path(_FOLDER.name) / "structure.pt"))


MASKS = every_other_weight()
STRUCTURE = half_of_the_channels()
# Modules of the zoo that have a layer whose channels may go.
WITH_CHANNELS = ("mlp", "cnn", "transformer", "metrics", "groups", "stream")
SMALLER = {
    "checkpoint_is_plain_data": "the weights in its checkpoint are those of a smaller module",
    "checkpoint_loads_without_the_method": "the module has to be made smaller first; see load_structure",
}

STAYS_AWAY = "something else stands where a block was removed"


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
        Subject(
            "bip",
            lambda: BiP(0.5, mask_lr=1.0),
            neutral=lambda: BiP(1.0),
            plain_first_step=False,
        ),
        Subject(
            "structured_pruning",
            lambda: StructuredPruning(0.5),
            neutral=lambda: StructuredPruning(0.0),
            zoo=WITH_CHANNELS,
            plain_first_step=False,
            expected_failures=SMALLER,
        ),
        Subject(
            "layer_tickets",
            # No module of the zoo has residual blocks: what may go is said.
            lambda: LayerTickets(0.9, include="net.1"),
            neutral=lambda: LayerTickets(0.0),
            zoo=("mlp", "metrics"),
            plain_first_step=False,
            expected_failures={
                **SMALLER,
                "counts_statistics_once": "the block that goes is one with statistics",
                "clean_after_fit": STAYS_AWAY,
                "clean_after_exception": STAYS_AWAY,
                "clean_after_keyboard_interrupt": STAYS_AWAY,
            },
        ),
        Subject(
            "fixed_structure",
            lambda: FixedStructure(STRUCTURE),
            zoo=("mlp",),
            plain_first_step=False,
            expected_failures=SMALLER,
        ),
    ]
)
def test_conformance(method: Any, check: Any) -> None:
    check(method)
