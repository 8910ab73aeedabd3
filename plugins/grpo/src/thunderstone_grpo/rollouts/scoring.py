"""Log-probabilities and entropies of completions under a policy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from thunderstone_grpo.log_probabilities import token_log_probabilities
from thunderstone_grpo.rollouts.chunk import Chunk
from thunderstone_grpo.rollouts.policy import Policy

_AT_ONCE = 1024


def padded_texts(prompts: Sequence[Tensor], completions: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts and completions as texts (B, T) padded on the right, and the lengths (B,) of both.

    Zeros stand in the padding; nothing reads them.
    """
    texts = [torch.cat([prompt, completion]) for prompt, completion in zip(prompts, completions, strict=True)]
    device = texts[0].device if texts else None
    width = max((len(text) for text in texts), default=0)
    ids = torch.stack([pad(text, (0, width - len(text))) for text in texts]) if texts else torch.zeros(0, 0).long()
    lengths = [torch.tensor([len(part) for part in parts], device=device) for parts in (prompts, completions)]
    return ids, lengths[0].long(), lengths[1].long()


def score(
    policy: Policy, chunk: Chunk, temperature: float, softmax_positions: int | None, entropies: str | None = None
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities (B, L) of the completions' tokens, 0 after each length, and entropies (B, L) if asked for.

    Args:
        policy: Called once, on the whole chunk.
        chunk: B completions, at least one.
        temperature: What logits are divided by, as when the tokens were drawn.
        softmax_positions: How many positions go through the softmax at a time; None for all.
        entropies: ``"graph"`` for entropies with their graph, ``"value"`` for such without, None for none.
    """
    first = int(chunk.prompt_lengths.min()) - 1
    logits = policy.logits(chunk.ids, chunk.prompt_lengths + chunk.lengths, first)[:, :-1]
    tokens = chunk.ids[:, first + 1 :]
    found, entropy = token_log_probabilities(
        logits, tokens, temperature=temperature, entropies=entropies == "graph", chunk_size=softmax_positions
    )
    if entropies == "value":
        with torch.no_grad():
            entropy = _entropies(logits, tokens, temperature, softmax_positions or _AT_ONCE)
    # Completions begin at different places where prompts are of different lengths.
    width = int(chunk.lengths.max())
    places = torch.arange(width, device=found.device)
    inside = places < chunk.lengths.unsqueeze(1)
    columns = (chunk.prompt_lengths.unsqueeze(1) - 1 - first + places).clamp(max=found.shape[1] - 1)

    def aligned(values: Tensor) -> Tensor:
        return torch.where(inside, values.gather(1, columns), 0.0)

    return aligned(found), None if entropy is None else aligned(entropy)


def _entropies(logits: Tensor, tokens: Tensor, temperature: float, positions: int) -> Tensor:
    """Without the memory of all positions at once: nothing of it is kept."""
    width = max(1, positions // max(1, len(logits)))
    parts = zip(logits.split(width, dim=1), tokens.split(width, dim=1), strict=True)
    scored = [token_log_probabilities(*part, temperature=temperature, entropies=True)[1] for part in parts]
    return torch.cat([part for part in scored if part is not None], dim=1)
