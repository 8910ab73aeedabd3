"""Who writes the completions: strategies of the kind ``grpo.rollout_engine``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thunderstone.generation import Generation, generate


@dataclass(frozen=True)
class RolloutRequest:
    """What an engine is asked for: one completion of each prompt, sampled.

    Attributes:
        module: The policy, as it is now. In training mode; an engine that runs it puts modes and buffers back.
        prompts: Ids (T,) int64, one for each completion; groups are runs of equal prompts.
        group_size: The length of the longest of these runs; some samplers ask for fewer completions of some prompts.
        max_new_tokens: Most tokens of a completion.
        temperature: What logits are divided by, above 0.
        top_k: The most probable tokens that may be drawn, or None for all.
        top_p: The mass of the most probable tokens that may be drawn, or None for all.
        stop_tokens: What ends a completion; None for nothing.
        max_sequences: At most this many texts at a time, or None.
        generator: Where draws come from. An engine that draws from it alone gives the same completions again after a
            resume, which is what makes it exact.
        on_progress: May be called with the share that is written, 0 to 1, which is shown to whoever watches.
    """

    module: nn.Module
    prompts: Sequence[Tensor]
    group_size: int
    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    stop_tokens: Sequence[int] | None
    max_sequences: int | None
    generator: torch.Generator
    on_progress: Callable[[float], object] | None = None


RolloutEngine = Callable[[RolloutRequest], Generation]
"""Returns the completions in the order of the prompts, without them, on any device. Log-probabilities are not asked
for: they are computed by the policy itself, in the batches that the updates are made of."""


def with_cache(request: RolloutRequest) -> Generation:
    """A Hugging Face model's own `generate`, which keeps keys and values; the plain loop for any other module."""
    return _generate(request, use_cache=True)


def plain(request: RolloutRequest) -> Generation:
    """The whole text through the module for every token, whatever the module is."""
    return _generate(request, use_cache=False)


def _generate(request: RolloutRequest, use_cache: bool) -> Generation:
    return generate(
        request.module,
        list(request.prompts),
        request.max_new_tokens,
        stop_tokens=request.stop_tokens,
        do_sample=True,
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        generator=request.generator,
        max_sequences=request.max_sequences,
        use_cache=use_cache,
        on_progress=request.on_progress,
    )
