"""From the losses of tokens to the loss of an optimizer step, with normalisers that belong to the whole step."""

from __future__ import annotations

from torch import Tensor

from thunderstone.arguments import one_of, whole

AGGREGATIONS = ("grpo", "dapo", "dr_grpo")


def aggregate(loss: Tensor, mask: Tensor, how: str, *, completions: int, tokens: int, max_length: int) -> Tensor:
    """One part of the loss of an optimizer step. The sum over micro-batches and replicas is the whole.

    ``"grpo"``: the mean over completions of the mean over their tokens (Shao et al. 2024). ``"dapo"``: the mean over
    all tokens, so that long completions weigh more (Yu et al. 2025). ``"dr_grpo"``: the sum over all tokens divided by
    completions times the largest length, so that a token weighs the same in every completion (Liu et al. 2025).

    A mean of local means is another loss wherever micro-batches hold different numbers of tokens; so the counts are
    given. With none at all (0) the result is 0.

    Args:
        loss: (B, L), of this micro-batch.
        mask: (B, L) bool, the tokens that count.
        how: ``"grpo"``, ``"dapo"`` or ``"dr_grpo"``.
        completions: How many completions the whole step has, over micro-batches and replicas.
        tokens: How many tokens that count.
        max_length: How long a completion may be (``"dr_grpo"``).

    Returns:
        0-d.

    Raises:
        ArgumentError: There is no such aggregation, or a count is negative.
    """
    who = "aggregate"
    one_of(who, "how", how, AGGREGATIONS)
    completions = whole(who, "completions", completions, "count those of the whole step", minimum=0)
    tokens = whole(who, "tokens", tokens, "count those of the whole step", minimum=0)
    max_length = whole(who, "max_length", max_length, "pass the limit that completions were generated with")
    counted = loss * mask
    if how == "grpo":
        return (counted.sum(-1) / mask.sum(-1).clamp(min=1)).sum() / max(1, completions)
    return counted.sum() / (max(1, tokens) if how == "dapo" else max(1, completions) * max_length)
