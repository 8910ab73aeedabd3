"""Moving connections: the weakest of a layer go, and as many come where the loss asks for them.

Pure functions on masks, as in RigL (Evci et al. 2020, arXiv 1911.11134, algorithm 1) and GraNet (Liu et al. 2021,
arXiv 2106.10404, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from thunderstone_pruning.masks import Masks, count, layer_masks


def moved(masks: Mapping[str, Tensor], fraction: float) -> dict[str, int]:
    """How many weights of each layer move: ``fraction`` of those it has, rounded down, and never all of them."""
    kept = {name: count(mask) for name, mask in masks.items()}
    return {name: max(0, min(int(fraction * number + 1e-9), number - 1)) for name, number in kept.items()}


def drop(
    masks: Mapping[str, Tensor], weights: Mapping[str, Tensor], numbers: Mapping[str, int], *, who: str = "drop"
) -> Masks:
    """Masks without the `numbers[name]` weights of smallest magnitude in each layer."""
    scores = {name: weights[name].detach().abs() for name in masks}
    keep = {name: count(mask) - numbers[name] for name, mask in masks.items()}
    return layer_masks(scores, keep, masks, who=who)


def grow(
    masks: Mapping[str, Tensor], gradients: Mapping[str, Tensor], numbers: Mapping[str, int], *, who: str = "grow"
) -> Masks:
    """Masks with the `numbers[name]` weights of largest gradient in each layer added, among those that are not there.

    What was dropped a moment ago may come back, at zero, if its gradient is among the largest.
    """
    scores = {name: gradients[name].detach().abs() for name in masks}
    added = layer_masks(scores, numbers, {name: ~mask for name, mask in masks.items()}, who=who)
    return {name: masks[name] | added[name] for name in masks}


def cosine(initial: float, progress: float) -> float:
    """``r / 2 (1 + cos(pi t))``: the fraction that moves, from `initial` to 0 over training."""
    return initial / 2 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
