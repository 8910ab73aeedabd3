"""Prompts as they are given, checked and brought into one form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thunderstone.errors import ArgumentError

_HOW = "pass int64 ids of shape (texts, tokens), or a list of lists of ids"


def checked_prompts(prompts: Any, lengths: Any) -> list[Tensor]:
    """Each prompt as ids (T,) int64 without padding.

    Args:
        prompts: (N, T) integers, or a sequence of N one-dimensional ones.
        lengths: Of each row of a tensor padded on the right, or None for all of it.

    Raises:
        ArgumentError: There is no prompt, one has no token, or ids are not whole numbers from 0.
    """
    if isinstance(prompts, Tensor):
        rows = _rows(prompts, lengths)
    elif lengths is not None:
        raise ArgumentError("generate", "lengths", lengths, "a list's prompts have their own lengths", "leave it out")
    elif isinstance(prompts, Sequence) and not isinstance(prompts, (str, bytes)):
        rows = [_row(index, prompt) for index, prompt in enumerate(prompts)]
    else:
        raise ArgumentError("generate", "prompts", prompts, f"it is of type {type(prompts).__name__}", _HOW)
    if not rows:
        raise ArgumentError("generate", "prompts", prompts, "there is no prompt", _HOW)
    for index, row in enumerate(rows):
        if not row.numel():
            hint = "begin it with the tokenizer's beginning-of-text token"
            raise ArgumentError("generate", "prompts", f"prompt {index}", "it has no token", hint)
        if int(row.min()) < 0:
            raise ArgumentError("generate", "prompts", int(row.min()), f"prompt {index} holds a negative id", _HOW)
    return rows


def _rows(prompts: Tensor, lengths: Any) -> list[Tensor]:
    if prompts.dim() != 2 or prompts.is_floating_point() or prompts.is_complex() or prompts.dtype is torch.bool:
        reason = f"it has shape {tuple(prompts.shape)} and dtype {prompts.dtype}"
        raise ArgumentError("generate", "prompts", "a tensor", reason, _HOW)
    if lengths is None:
        return list(prompts.long())
    numbers = torch.as_tensor(lengths)
    whole = not (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype is torch.bool)
    if numbers.shape != prompts.shape[:1] or not whole:
        reason = f"it must be {len(prompts)} whole numbers, one for each prompt"
        raise ArgumentError("generate", "lengths", lengths, reason, "count each row's tokens without padding")
    if numbers.numel() and (int(numbers.max()) > prompts.shape[1] or int(numbers.min()) < 0):
        reason = f"the prompts are {prompts.shape[1]} tokens wide"
        raise ArgumentError("generate", "lengths", lengths, reason, "count each row's tokens without padding")
    return [row[:length] for row, length in zip(prompts.long(), numbers.tolist(), strict=True)]


def _row(index: int, prompt: Any) -> Tensor:
    try:
        ids = torch.as_tensor(prompt)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(
            "generate", "prompts", prompt, f"prompt {index} is no list of ids: {error}", _HOW
        ) from error
    # An empty list becomes a float tensor, and is refused for being empty.
    odd = ids.is_floating_point() or ids.is_complex() or ids.dtype is torch.bool
    if ids.dim() != 1 or (odd and ids.numel()):
        reason = f"prompt {index} has shape {tuple(ids.shape)} and dtype {ids.dtype}"
        raise ArgumentError("generate", "prompts", prompt, reason, _HOW)
    return ids.long()


def left_padded(rows: Sequence[Tensor], pad_token: int) -> tuple[Tensor, Tensor]:
    """Ids (B, T) with the prompts at the right edge, and the attention mask (B, T), 0 on the padding."""
    width = max(len(row) for row in rows)
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0), value=pad_token) for row in rows])
    missing = torch.tensor([width - len(row) for row in rows], device=ids.device)
    return ids, (torch.arange(width, device=ids.device) >= missing.unsqueeze(1)).long()
