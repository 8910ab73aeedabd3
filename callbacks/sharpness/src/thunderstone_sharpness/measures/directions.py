"""Directions in weight space along which a loss landscape is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thunderstone_sharpness.measures.noise import normal


def filter_normalised(weights: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """A random direction in which every filter is as long as the weights' own.

    A filter is a slice along the first dimension of a weight of two or more dimensions (an output channel, a neuron, a
    row of an embedding). Biases and the parameters of normalisation layers, which have one dimension, stay where they
    are. Li et al. 2018, arXiv 1712.09913, section 4. A filter of zeros does not move.

    Args:
        weights: Any shapes, not changed.
        generator: Draws the direction.

    Returns:
        New tensors, parallel to `weights`; one unit along it changes the weights by as much as they are long.
    """
    direction = []
    for noise, weight in zip(normal(weights, generator), weights, strict=True):
        if weight.ndim < 2:
            direction.append(torch.zeros_like(weight))
            continue
        dimensions = tuple(range(1, weight.ndim))
        length = torch.linalg.vector_norm(noise, dim=dimensions, keepdim=True).clamp_min(torch.finfo(noise.dtype).tiny)
        direction.append(noise * (torch.linalg.vector_norm(weight, dim=dimensions, keepdim=True) / length))
    return direction
