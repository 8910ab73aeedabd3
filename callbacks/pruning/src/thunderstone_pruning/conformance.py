"""What the conformance kit is told of each method of this family. Imported by checks alone."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import thunderstone_pruning as family
from thunderstone.testing import Subject
from thunderstone.testing.zoo import CASES, MLP
from thunderstone.testing.zoo.data import FEATURES
from thunderstone_pruning.channels import plan_channels
from thunderstone_pruning.mask_files import Ticket
from thunderstone_pruning.prunable import prunable_parameters


@cache
def _folder() -> TemporaryDirectory[str]:
    """Of this process, and gone with it."""
    return TemporaryDirectory(prefix="thunderstone-")


@cache
def every_other_weight() -> str:
    """A file of masks for the perceptron of the zoo, written once."""
    with torch.random.fork_rng(devices=[]):
        parameters = prunable_parameters(MLP())
    masks = {name: (torch.arange(p.numel()) % 2 == 0).view_as(p) for name, p in parameters.items()}
    return str(Ticket(masks).save(Path(_folder().name) / "masks.ckpt"))


@cache
def half_of_the_channels() -> str:
    """A file of a smaller perceptron, written once."""
    with torch.random.fork_rng(devices=[]):
        structure = plan_channels(MLP(), lambda module: module(torch.randn(4, FEATURES)), 0.5)
    return str(structure.save(Path(_folder().name) / "structure.pt"))


# Of a stream nobody knows the length, so moments have to be told in updates.
WITH_LENGTH = tuple(name for name in CASES if name != "stream")
# Modules of the zoo that have a layer whose channels may go.
WITH_CHANNELS = ("mlp", "cnn", "transformer", "metrics", "groups", "stream")
SMALLER = {
    "checkpoint_is_plain_data": "the weights in its checkpoint are those of a smaller module",
    "checkpoint_loads_without_the_method": "the module has to be made smaller first; see load_structure",
}
_STAYS_AWAY = "something else stands where a block was removed"

IMP = Subject("imp", lambda: family.IMP(rounds=1), neutral=lambda: family.IMP(rounds=0), rounds=2)
FIXED_MASK = Subject("fixed_mask", lambda: family.FixedMask(every_other_weight()), zoo=("mlp",), plain_first_step=False)
RANDOM_PRUNING = Subject(
    "random_pruning",
    lambda: family.RandomPruning(0.5),
    neutral=lambda: family.RandomPruning(1.0),
    plain_first_step=False,
)
RANDOM_SEARCH = Subject(
    "random_search",
    lambda: family.RandomSearch(0.5, candidates=3),
    neutral=lambda: family.RandomSearch(1.0),
    plain_first_step=False,
)
SNIP = Subject("snip", lambda: family.SNIP(0.5), neutral=lambda: family.SNIP(1.0), plain_first_step=False)
GRADUAL_PRUNING = Subject(
    "gradual_pruning",
    lambda: family.GradualPruning(0.3, interval=2, empty="keep_one"),
    neutral=lambda: family.GradualPruning(1.0),
    module_arguments={"stream": {"stop": 6}},
)
GRANET = Subject(
    "granet",
    lambda: family.GraNet(0.3, interval=2, empty="keep_one"),
    neutral=lambda: family.GraNet(1.0),
    zoo=WITH_LENGTH,
)
BIP = Subject("bip", lambda: family.BiP(0.5, mask_lr=1.0), neutral=lambda: family.BiP(1.0), plain_first_step=False)
STRUCTURED_PRUNING = Subject(
    "structured_pruning",
    lambda: family.StructuredPruning(0.5),
    neutral=lambda: family.StructuredPruning(0.0),
    zoo=WITH_CHANNELS,
    plain_first_step=False,
    expected_failures=SMALLER,
)
LAYER_TICKETS = Subject(
    "layer_tickets",
    # No module of the zoo has residual blocks: what may go is said.
    lambda: family.LayerTickets(0.9, include="net.1"),
    neutral=lambda: family.LayerTickets(0.0),
    zoo=("mlp", "metrics"),
    plain_first_step=False,
    expected_failures={
        **SMALLER,
        "counts_statistics_once": "the block that goes is one with statistics",
        "clean_after_fit": _STAYS_AWAY,
        "clean_after_exception": _STAYS_AWAY,
        "clean_after_exception_in_validation": _STAYS_AWAY,
        "clean_after_keyboard_interrupt": _STAYS_AWAY,
    },
)
FIXED_STRUCTURE = Subject(
    "fixed_structure",
    lambda: family.FixedStructure(half_of_the_channels()),
    zoo=("mlp",),
    plain_first_step=False,
    expected_failures=SMALLER,
)
