"""How much each weight counts: the ``pruning.score`` strategies. The weights with the largest scores stay.

Each is a pure function of a `Candidates`, usable from any training loop; a package that declares another can be named
in ``IMP(score="name")``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Candidates:
    """What a score may look at.

    Attributes:
        weights: The prunable weights by name, detached; not to be changed. Pruned ones are zero.
        gradients: Makes the gradients of the loss with respect to them, by name; a call costs forward and backward
            passes, so scores that need none do not call it.
        generator: Where a score that draws takes its numbers from, on the CPU: the same on every process.
    """

    weights: Mapping[str, Tensor]
    gradients: Callable[[], Mapping[str, Tensor]]
    generator: torch.Generator


class Score(Protocol):
    """The signature of a ``pruning.score`` strategy.

    Returns real tensors with the names and shapes of ``candidates.weights``; what was pruned before is looked past.
    """

    def __call__(self, candidates: Candidates) -> Tensors: ...


def magnitude(candidates: Candidates) -> Tensors:
    """``|w|``. Han et al. 2015, arXiv 1506.02626."""
    return {name: weight.detach().abs() for name, weight in candidates.weights.items()}


def random(candidates: Candidates) -> Tensors:
    """Uniform in [0, 1), the same numbers on every device; layers draw in the order of their names."""
    drawn = {}
    for name in sorted(candidates.weights):
        weight = candidates.weights[name]
        drawn[name] = torch.rand(weight.shape, generator=candidates.generator).to(weight.device)
    return {name: drawn[name] for name in candidates.weights}


def snip(candidates: Candidates) -> Tensors:
    """``|w dL/dw|``: how much the loss answers to a factor on the connection. Lee et al. 2019, arXiv 1810.02340, eq. 4.

    The paper divides by the sum over all connections, which changes no order and is left out.
    """
    gradients = candidates.gradients()
    return {name: (weight.detach() * gradients[name]).abs() for name, weight in candidates.weights.items()}


def gradient(candidates: Candidates) -> Tensors:
    """``|dL/dw|``: what a weight at zero would be moved by. Evci et al. 2020, arXiv 1911.11134, for growing weights."""
    gradients = candidates.gradients()
    return {name: gradients[name].abs() for name in candidates.weights}
