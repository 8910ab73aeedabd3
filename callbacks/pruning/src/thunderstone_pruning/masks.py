"""Masks with exact counts from scores: over all layers together, or layer by layer.

A mask is True where a weight stays. Ties are broken by position (layers in the order of their names, weights in the
order of their indices, the first ones stay), so that the same scores give the same mask on every device and in every
order of layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.arguments import one_of
from thunderstone_pruning.selection import kth_largest, widest

Masks = dict[str, Tensor]
EMPTY = ("refuse", "keep_one")


def global_masks(
    scores: Mapping[str, Tensor],
    keep: int,
    remaining: Mapping[str, Tensor] | None = None,
    *,
    empty: str = "refuse",
    who: str = "global_masks",
) -> Masks:
    """Masks of the `keep` weights with the largest scores over all layers together.

    Args:
        scores: By layer; any shapes, real, above minus infinity and not NaN.
        keep: How many weights stay: exactly as many.
        remaining: Masks of what has not been pruned before; the rest stays pruned, whatever its score. None is all.
        empty: A layer that would lose its last weight: ``"refuse"`` raises, ``"keep_one"`` leaves it the weight with
            its largest score, in place of another layer's.
        who: Named in errors.

    Returns:
        Bool tensors with the shapes, devices and order of `scores`.

    Raises:
        ArgumentError: `keep` is more than there is, a score is NaN, or a layer would be empty.
    """
    one_of(who, "empty", empty, EMPTY)
    before = _remaining(scores, remaining, who)
    _check_scores(scores, before, who)
    available = {name: _available(score, before, name) for name, score in scores.items()}
    _check_keep(who, keep, sum(available.values()), "scores")
    masks = _largest(scores, keep, before)
    emptied = [name for name, mask in masks.items() if available[name] and not mask.any()]
    if not emptied:
        return masks
    if empty == "refuse":
        refuse_empty(who, emptied, keep)
    # One of each layer is certain; the others compete for the rest. A layer that had one anyway loses nothing.
    if before is None:
        before = {name: torch.ones_like(mask) for name, mask in masks.items()}
    certain = {name: _first_largest(scores[name], before[name]) for name in scores}
    alive = sum(1 for number in available.values() if number)
    if keep < alive:
        refuse_few(who, keep, alive)
    rest = _largest(scores, keep - alive, {name: before[name] & ~mask for name, mask in certain.items()})
    return {name: mask | certain[name] for name, mask in rest.items()}


def layer_masks(
    scores: Mapping[str, Tensor],
    keep: Mapping[str, int],
    remaining: Mapping[str, Tensor] | None = None,
    *,
    who: str = "layer_masks",
) -> Masks:
    """Masks of the weights with the largest scores in each layer, `keep[name]` of them: exactly as many.

    Result and errors as in `global_masks`. A layer may be emptied: that is what a `keep` of 0 asks for.

    Args:
        scores: A tensor for each layer, of its shape.
        keep: How many weights of each layer stay.
        remaining: Masks of what is left; the rest is looked past. None: everything.
        who: Who asks, for messages.
    """
    before = _remaining(scores, remaining, who)
    _check_scores(scores, before, who)
    masks: Masks = {}
    for name, score in scores.items():
        _check_keep(who, keep[name], _available(score, before, name), name)
        masks |= _largest({name: score}, keep[name], None if before is None else {name: before[name]})
    return masks


def count(mask: Tensor) -> int:
    """How many weights stay."""
    return int(torch.count_nonzero(mask))


def kept_after(remaining: int, fraction: float) -> int:
    """How many of `remaining` weights are left when `fraction` of them goes, to the nearest whole number."""
    return remaining - round(fraction * remaining)


def refuse_empty(who: str, layers: Iterable[str], keep: int | None = None) -> None:
    """Raise the ArgumentError for layers that would lose their last weight."""
    among = "" if keep is None else f" when {keep} weights stay in all"
    raise ArgumentError(
        who,
        "layer",
        ", ".join(layers),
        f"it would have no weight left{among}, and nothing passes through such a layer",
        "prune less, prune by layer, exclude it, or pass empty='keep_one' to leave its best weight",
    )


def refuse_few(who: str, keep: int, layers: int) -> None:
    """Raise the ArgumentError for fewer weights than layers, each of which is to have one."""
    reason = f"there are {layers} layers, and empty='keep_one' leaves a weight in each"
    raise ArgumentError(who, "keep", keep, reason, f"keep at least {layers} weights in all, or exclude layers")


def _largest(scores: Mapping[str, Tensor], keep: int, where: Mapping[str, Tensor] | None) -> Masks:
    if keep == 0:
        return {name: torch.zeros_like(score, dtype=torch.bool) for name, score in scores.items()}
    names = sorted(scores)
    values = [scores[name] for name in names]
    threshold = kth_largest(values, keep, None if where is None else [where[name] for name in names])
    ties = keep - threshold.above
    wide = widest(values)
    found: Masks = {}
    for name in names:
        score = scores[name].detach().to(wide)
        limit = threshold.value.to(score.device)
        mask = score >= limit
        if where is not None:
            mask &= where[name]
        if ties < threshold.equal:
            equal = (score == limit) & mask
            surplus = equal.reshape(-1).nonzero()[ties:]
            ties = max(0, ties - count(equal))
            # Of another memory format it would have no flat view.
            mask = mask.contiguous()
            mask.view(-1)[surplus] = False
        found[name] = mask
    return {name: found[name] for name in scores}


def _first_largest(score: Tensor, where: Tensor) -> Tensor:
    """Mask of one weight: the first with the largest score among those that remain, or none where none remains."""
    chosen = torch.zeros(where.shape, dtype=torch.bool, device=where.device)
    if where.any():
        best = (score == score[where].max()) & where
        chosen.view(-1)[best.reshape(-1).nonzero()[0]] = True
    return chosen


def _remaining(scores: Mapping[str, Tensor], remaining: Mapping[str, Tensor] | None, who: str) -> Masks | None:
    if not scores:
        raise ArgumentError(who, "scores", {}, "there is no layer in it", "pass at least one")
    if remaining is None:
        return None
    if remaining.keys() != scores.keys():
        differing = ", ".join(sorted(remaining.keys() ^ scores.keys()))
        raise ArgumentError(who, "remaining", differing, "masks and scores are of different layers", "pass the same")
    for name, score in scores.items():
        if remaining[name].shape != score.shape or remaining[name].dtype != torch.bool:
            found = f"{remaining[name].dtype} of shape {tuple(remaining[name].shape)}"
            hint = f"pass a bool tensor of shape {tuple(score.shape)}"
            raise ArgumentError(who, f"remaining[{name!r}]", found, "it does not fit the layer", hint)
    return {name: remaining[name].to(score.device).contiguous() for name, score in scores.items()}


def _available(score: Tensor, where: Mapping[str, Tensor] | None, name: str) -> int:
    return score.numel() if where is None else count(where[name])


def _check_scores(scores: Mapping[str, Tensor], where: Mapping[str, Tensor] | None, who: str) -> None:
    for name, score in scores.items():
        if not score.is_floating_point():
            hint = "convert it, e.g. with .float()"
            raise ArgumentError(who, f"scores[{name!r}]", score.dtype, "scores are real numbers", hint)
        lowest = _lowest(score)
        if not lowest > -torch.inf and where is not None:
            # What was pruned before may have any score.
            lowest = _lowest(score[where[name]])
        if not lowest > -torch.inf:
            hint = "look for weights or gradients that are NaN or infinite; lower the learning rate, or prune earlier"
            raise ArgumentError(who, f"scores[{name!r}]", lowest, "such scores have no order", hint)


def _lowest(score: Tensor) -> float:
    # The smallest of values with a NaN among them is NaN.
    return float(score.detach().amin()) if score.numel() else 0.0


def _check_keep(who: str, keep: int, available: int, of: str) -> None:
    if not 0 <= keep <= available:
        reason = f"{of} has {available} remaining weights"
        raise ArgumentError(who, "keep", keep, reason, f"keep between 0 and {available}")
