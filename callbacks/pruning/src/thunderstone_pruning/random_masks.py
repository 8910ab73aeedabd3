"""Random masks with exact numbers of weights by layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

import thunderstone
from thunderstone_pruning.densities import layer_counts
from thunderstone_pruning.masks import Masks, layer_masks
from thunderstone_pruning.scores import Candidates, random


def random_masks(
    weights: Mapping[str, Tensor], keep: Mapping[str, int], seed: int, *, who: str = "random_masks"
) -> Masks:
    """Masks of `keep[name]` weights of each layer, all choices alike; drawn on the CPU, the same on every device.

    Args:
        weights: By layer; their shapes and devices count.
        keep: How many stay in each.
        seed: Of a generator of its own.
        who: Named in errors.
    """
    scores = random(Candidates(weights, dict, torch.Generator().manual_seed(seed)))
    return layer_masks(scores, keep, who=who)


def distributed(
    weights: Mapping[str, Tensor], density: float, distribution: str, *, empty: str, who: str
) -> dict[str, int]:
    """How many weights stay in each layer: `density` of them all, shared out by a ``pruning.density`` strategy.

    Raises:
        ArgumentError: See `layer_counts`.
    """
    strategy = thunderstone.strategy("pruning.density", distribution)
    shares = strategy({name: tuple(weight.shape) for name, weight in weights.items()}, density)
    sizes = {name: weight.numel() for name, weight in weights.items()}
    return layer_counts(shares, sizes, round(density * sum(sizes.values())), empty=empty, who=who)
