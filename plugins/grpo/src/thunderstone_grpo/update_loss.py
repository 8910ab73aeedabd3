"""The loss of one step: a chunk of a rollout, gone through the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thunderstone.arguments import finite, flag, one_of
from thunderstone_grpo.aggregation import aggregate
from thunderstone_grpo.loss import PolicyLoss
from thunderstone_grpo.rollouts.chunk import Chunk

AGGREGATIONS = ("dapo", "dr_grpo", "grpo")
DIVERGENCES = ("k1", "k2", "k3")


@dataclass(frozen=True)
class Objective:
    """What the loss is, of a completion's tokens and of all completions together.

    Attributes:
        tokens: The loss of each token.
        aggregation: How the tokens of an update become one number.
        max_length: Most tokens of a completion, by which ``dr_grpo`` divides.
    """

    tokens: PolicyLoss
    aggregation: str
    max_length: int

    @property
    def needs_reference(self) -> bool:
        """Whether the KL term is part of it."""
        return self.tokens.kl_weight > 0


def checked_objective(
    who: str,
    loss: Any,
    clip_low: Any,
    clip_high: Any,
    clip_dual: Any,
    kl_weight: Any,
    kl: Any,
    kl_correction: Any,
    entropy_weight: Any,
    max_length: int,
) -> Objective:
    """The objective, or ArgumentError in the name of `who`."""
    dual_hint = "use about 3, or None for no further bound"
    upper = finite(who, "clip_high", clip_high, "0.2 keeps ratios below 1.2; DAPO uses 0.28", minimum=0)
    tokens = PolicyLoss(
        clip_low=finite(who, "clip_low", clip_low, "0.2 keeps ratios above 0.8", minimum=0, maximum=1),
        clip_high=upper,
        clip_dual=None if clip_dual is None else finite(who, "clip_dual", clip_dual, dual_hint, above=1 + upper),
        kl=one_of(who, "kl", kl, DIVERGENCES),
        kl_weight=finite(who, "kl_weight", kl_weight, "0 leaves the reference out, 0.04 holds on to it", minimum=0),
        kl_correction=flag(who, "kl_correction", kl_correction, "True multiplies the divergence by the ratio"),
        entropy_weight=finite(
            who, "entropy_weight", entropy_weight, "0 leaves the bonus out, 0.001 is a start", minimum=0
        ),
    )
    return Objective(tokens, one_of(who, "loss", loss, AGGREGATIONS), max_length)


def chunk_loss(
    chunk: Chunk,
    log_probabilities: Tensor,
    old: Tensor,
    entropies: Tensor,
    objective: Objective,
    tokens: int,
    completions: int,
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """The chunk's part of the update's loss, and sums and counts of what is reported of it.

    Args:
        chunk: B completions.
        log_probabilities: (B, L) under the policy, with their graph.
        old: (B, L) at the time of the rollout.
        entropies: (B, L) of the predictions; with their graph where they are part of the loss.
        objective: What the loss is.
        tokens: Of the whole update, over all its chunks and all replicas.
        completions: The same.
    """
    mask = chunk.mask
    reference = chunk.reference if objective.needs_reference else None
    found = objective.tokens(
        log_probabilities, old, chunk.advantages.to(old.dtype), mask, reference=reference, entropies=entropies
    )
    loss = aggregate(
        found.loss,
        mask,
        objective.aggregation,
        completions=max(completions, 1),
        tokens=max(tokens, 1),
        max_length=objective.max_length,
    )
    count = mask.sum()
    sums = {"clip_fraction": found.clipped.sum(), "entropy": (entropies.detach() * mask).sum()}
    if found.kl is not None:
        sums["kl"] = (found.kl.detach() * mask).sum()
    return loss, {name: (total, count) for name, total in sums.items()}


def no_loss(module: nn.Module) -> Tensor:
    """Zero, with a graph that reaches every trained parameter: replicas wait for all gradients of one another."""
    parts = [parameter.flatten()[:0].sum() for parameter in module.parameters() if parameter.requires_grad]
    return torch.stack([part.float() for part in parts]).sum() if parts else torch.zeros((), requires_grad=True)
