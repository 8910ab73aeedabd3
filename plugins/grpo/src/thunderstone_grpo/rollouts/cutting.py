"""From a rollout to the chunks that updates are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from thunderstone_grpo.rollouts.chunk import Chunk
from thunderstone_grpo.rollouts.rollout import Rollout
from thunderstone_grpo.rollouts.scoring import padded_texts


def cut(rollout: Rollout, rows: Tensor, counted: Tensor, minibatches: int, device: torch.device) -> list[Chunk]:
    """Rows of a rollout in so many chunks, of which some are empty where there are fewer rows.

    Completions are dealt out one after the other, so that every chunk has its share of every group.

    Args:
        rollout: N completions.
        rows: (K,) int64, which of them.
        counted: (N,) bool, which the loss sees.
        minibatches: How many chunks.
        device: Where they go.
    """
    chunks = []
    for number in range(minibatches):
        dealt = rows[number::minibatches]
        places = dealt.tolist()
        ids, prompt_lengths, lengths = padded_texts(
            [rollout.prompts[row] for row in places], [rollout.completions[row] for row in places]
        )
        parts = (ids, prompt_lengths, lengths, counted[dealt], torch.zeros(len(places)), dealt)
        chunks.append(Chunk(*(part.to(device) for part in parts)))
    return chunks
