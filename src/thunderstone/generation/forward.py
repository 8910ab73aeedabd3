"""What a module's forward takes, and the next token's logits out of what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from thunderstone.errors import ArgumentError
from thunderstone.generation.errors import GenerationError


def accepted(module: nn.Module) -> frozenset[str]:
    """The names of the arguments that the module's forward spells out."""
    try:
        return frozenset(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        return frozenset()


def takes_padding(names: frozenset[str]) -> bool:
    """Whether padding can be hidden from a forward: from its attention, and from its positions."""
    return {"attention_mask", "position_ids"} <= names


def next_logits(module: nn.Module, ids: Tensor, mask: Tensor | None, names: frozenset[str]) -> Tensor:
    """The logits (B, V) of the token that follows `ids` (B, T).

    Args:
        module: Called as ``module(ids)``, with ``attention_mask=`` and ``position_ids=`` where `mask` is given.
        ids: int64.
        mask: (B, T), 0 on padding, which stands on the left; None where there is none.
        names: What the forward takes.

    Raises:
        GenerationError: The module failed, or returned no logits (B, T, V).
    """
    arguments: dict[str, Any] = {}
    if mask is not None:
        arguments = {"attention_mask": mask, "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)}
    # Of what Hugging Face models take: without these they keep and compute what no one reads.
    if "use_cache" in names:
        arguments["use_cache"] = False
    if "logits_to_keep" in names:
        arguments["logits_to_keep"] = 1
    try:
        output = module(ids, **arguments)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise GenerationError(
            f"{type(module).__name__} failed on ids of shape {tuple(ids.shape)}: {type(error).__name__}: {error}",
            "its forward must take int64 ids (B, T); where it has a limit of positions, pass it as max_positions",
        ) from error
    return last_logits(output, type(module).__name__, len(ids))


def last_logits(output: Any, name: str, batch: int) -> Tensor:
    """The last position's logits (B, V) in what a module called `name` returned, or GenerationError."""
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    elif not isinstance(output, Tensor):
        output = getattr(output, "logits", output)
    if isinstance(output, Tensor) and output.dim() == 3 and len(output) == batch and output.shape[1]:
        return output[:, -1]
    found = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise GenerationError(
        f"{name} returned {found} for {batch} texts",
        "let its forward return logits of shape (B, T, vocabulary), or an object that holds them as .logits",
    )


def check_positions(module: nn.Module, prompt: int, new: int, max_positions: int | None) -> None:
    """Raise ArgumentError where a prompt of `prompt` tokens and `new` ones after it are more than the module can see.

    The last generated token is never an input, so `prompt + new - 1` positions are needed.
    """
    limit = max_positions
    if limit is None:
        declared = getattr(getattr(module, "config", None), "max_position_embeddings", None)
        limit = declared if isinstance(declared, int) and declared > 0 else None
    if limit is not None and prompt + new - 1 > limit:
        room = limit - prompt + 1
        raise ArgumentError(
            "generate",
            "max_new_tokens",
            new,
            f"the longest prompt has {prompt} tokens, and {type(module).__name__} has {limit} positions",
            f"generate at most {room} tokens, or shorten the prompts"
            if room > 0
            else f"shorten the prompts to {limit} tokens or less",
        )
