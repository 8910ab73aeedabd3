"""Generation with any module that maps ids to logits: the whole text through the module for every token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thunderstone.generation.choice import Choice
from thunderstone.generation.forward import accepted, next_logits, takes_padding
from thunderstone.generation.prompts import left_padded
from thunderstone.generation.texts import GrowingTexts
from thunderstone.generation.watch import Watch


def run(
    module: nn.Module, prompts: list[Tensor], texts: GrowingTexts, choice: Choice, uniforms: Tensor, watch: Watch
) -> None:
    """Fill `texts` with continuations of the prompts.

    Where the module takes an attention mask and positions, prompts of different lengths share a batch, padded on the
    left. A module that takes only ids would read padding as text, so there each length is a batch of its own.

    Args:
        module: In evaluation mode.
        prompts: B rows of ids.
        texts: Where tokens go.
        choice: How they are chosen.
        uniforms: (B, L) float64, the draws.
        watch: Is told of every step.
    """
    names = accepted(module)
    rows = torch.arange(len(prompts), device=prompts[0].device)
    if takes_padding(names):
        _run_batch(module, names, rows, prompts, texts, choice, uniforms, watch)
        return
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=rows.device)
    for length in lengths.unique().tolist():
        chosen = rows[lengths == length]
        _run_batch(module, names, chosen, [prompts[row] for row in chosen.tolist()], texts, choice, uniforms, watch)


def _run_batch(
    module: nn.Module,
    names: frozenset[str],
    rows: Tensor,
    prompts: list[Tensor],
    texts: GrowingTexts,
    choice: Choice,
    uniforms: Tensor,
    watch: Watch,
) -> None:
    watch.begin(len(rows))
    ids, mask = left_padded(prompts, 0)
    padding = (mask == 0).sum(dim=1)
    for step in range(texts.tokens.shape[1]):
        logits = next_logits(module, ids, mask if bool(padding.any()) else None, names)
        groups = unpadded(ids, padding) if choice.processors else []
        tokens, scores = choice(groups, logits, uniforms[rows.to(uniforms.device), step])
        texts.append(rows, tokens, scores)
        watch.step()
        # Finished texts leave the batch.
        going = ~texts.stopped[rows]
        if not bool(going.any()):
            break
        ids = torch.cat([ids, tokens.unsqueeze(1)], dim=1)[going]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)[going]
        rows, padding = rows[going], padding[going]
    watch.end()


def unpadded(ids: Tensor, padding: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Groups of rows with equal padding on the left: their places in `ids` (B, T), and their ids without it."""
    groups = []
    for width in padding.unique().tolist():
        places = (padding == width).nonzero().squeeze(1)
        groups.append((places, ids[places, width:]))
    return groups
