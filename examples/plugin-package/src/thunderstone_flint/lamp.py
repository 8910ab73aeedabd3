"""The LAMP score: magnitudes that can be compared between layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # whoever calls it has the family; importing this module does not need it
    from thunderstone_pruning.scores import Candidates


def lamp_score(weight: Tensor) -> Tensor:
    """``w[u]^2 / sum of w[v]^2 over all v that are not smaller than u``. Lee et al. 2021, arXiv 2010.07611.

    The largest weight of a tensor has the score 1 whatever its size, so that comparing scores between layers never
    empties one. Among equal weights the first counts as the smaller.

    Args:
        weight: Of any shape; not changed.

    Returns:
        Scores from 0 to 1 of the same shape, float64 for float64 and float32 for everything else; 0 where the weight
        is 0.
    """
    wide = weight.detach().abs().flatten()
    squares = wide.to(torch.float64 if wide.dtype == torch.float64 else torch.float32).square()
    ascending, order = squares.sort(stable=True)
    # Summed from the largest down: what is left out at each place is what is smaller.
    not_smaller = ascending.flip(0).cumsum(0).flip(0)
    scores = torch.where(ascending == 0, ascending, ascending / not_smaller)
    return torch.empty_like(scores).scatter_(0, order, scores).reshape(weight.shape)


def lamp(candidates: Candidates) -> dict[str, Tensor]:
    """`lamp_score` of every layer: a ``pruning.score`` strategy, to be compared between layers (``scope="global"``)."""
    return {name: lamp_score(weight) for name, weight in candidates.weights.items()}
