"""Tokenised texts as they are given to a measure, checked and without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thunderstone import ArgumentError

Tokens = Tensor | Sequence[Tensor] | Sequence[Sequence[int]]

_HOW = "pass ids of shape (texts, tokens), or a list of lists of ids"
_HOW_LENGTHS = "count each text's tokens without padding"


@dataclass(frozen=True)
class Texts:
    """N texts one after the other.

    Attributes:
        ids: (S,) int64, the tokens of all texts.
        lengths: (N,) int64, which sum to S.
    """

    ids: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def owners(self) -> Tensor:
        """(S,) int64: the text that each token belongs to."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.ids.device), self.lengths)

    @property
    def left(self) -> Tensor:
        """(S,) int64: how many tokens its text has from each token on, itself included."""
        ends = self.lengths.cumsum(0)[self.owners]
        return ends - torch.arange(len(self.ids), device=self.ids.device)


def checked_texts(
    who: str,
    tokens: Any,
    lengths: Any = None,
    end_token: Any = None,
    argument: str = "tokens",
    lengths_argument: str = "lengths",
) -> Texts:
    """The texts without padding.

    Args:
        who: The measure, for messages.
        tokens: (N, L) integers, or a sequence of N one-dimensional ones.
        lengths: (N,) tokens of each row; what follows is padding.
        end_token: One id or several: the first of them in a text is its last token, and what follows is padding.
        argument: What `tokens` is called there.
        lengths_argument: What `lengths` is called there.

    Raises:
        ArgumentError: There is no text, ids are no whole numbers from 0, lengths do not fit, or both `lengths` and
            `end_token` are given.
    """
    if lengths is not None and end_token is not None:
        reason = "lengths say already where each text ends"
        raise ArgumentError(who, "end_token", end_token, reason, f"pass {lengths_argument} or end_token, not both")
    if isinstance(tokens, Tensor):
        texts = _of_tensor(who, tokens, lengths, argument, lengths_argument)
    elif lengths is not None:
        reason = f"a list's {argument} have their own lengths"
        raise ArgumentError(who, lengths_argument, lengths, reason, "leave it out, or pass a tensor of tokens")
    elif isinstance(tokens, Sequence) and not isinstance(tokens, (str, bytes)):
        texts = _of_list(who, tokens, argument)
    else:
        raise ArgumentError(who, argument, tokens, f"it is of type {type(tokens).__name__}", _HOW)
    if not len(texts):
        raise ArgumentError(who, argument, "nothing", "there is no text", _HOW)
    # Padding may be anything, -100 for example; what counts may not.
    if end_token is not None:
        texts = _up_to(texts, _checked_end(who, end_token))
    if texts.ids.numel() and int(texts.ids.min()) < 0:
        hint = f"pass {lengths_argument}=... or end_token=... where it is padding"
        raise ArgumentError(who, argument, int(texts.ids.min()), "ids are whole numbers from 0", hint)
    return texts


def _of_tensor(who: str, tokens: Tensor, lengths: Any, argument: str, lengths_argument: str) -> Texts:
    if tokens.dim() != 2 or not _is_whole(tokens):
        reason = f"it has shape {tuple(tokens.shape)} and dtype {tokens.dtype}"
        raise ArgumentError(who, argument, "a tensor", reason, _HOW)
    count, width = tokens.shape
    if lengths is None:
        numbers = torch.full((count,), width, dtype=torch.int64, device=tokens.device)
    else:
        numbers = torch.as_tensor(lengths, device=tokens.device)
        if numbers.shape != (count,) or not _is_whole(numbers):
            reason = f"it must be {count} whole numbers, one for each text"
            raise ArgumentError(who, lengths_argument, lengths, reason, _HOW_LENGTHS)
        numbers = numbers.long()
        if count and (int(numbers.max()) > width or int(numbers.min()) < 0):
            wrong = int(numbers.max()) if int(numbers.max()) > width else int(numbers.min())
            reason = f"the {argument} are {width} wide"
            raise ArgumentError(who, lengths_argument, wrong, reason, _HOW_LENGTHS)
    kept = torch.arange(width, device=tokens.device) < numbers.unsqueeze(1)
    return Texts(tokens.long()[kept], numbers)


def _of_list(who: str, tokens: Sequence[Any], argument: str) -> Texts:
    rows = []
    for index, text in enumerate(tokens):
        try:
            row = torch.as_tensor(text)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArgumentError(who, argument, text, f"text {index} holds no ids: {error}", _HOW) from error
        # An empty list becomes an empty float tensor.
        if row.dim() != 1 or not (_is_whole(row) or not row.numel()):
            reason = f"text {index} has shape {tuple(row.shape)} and dtype {row.dtype}"
            raise ArgumentError(who, argument, text, reason, _HOW)
        rows.append(row.long())
    if not rows:
        return Texts(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    ids = torch.cat(rows)
    return Texts(ids, torch.tensor([len(row) for row in rows], device=ids.device))


def _up_to(texts: Texts, end: Tensor) -> Texts:
    """The texts cut after their first end token."""
    owners = texts.owners
    is_end = torch.isin(texts.ids, end.to(texts.ids.device)).long()
    # How many end tokens stand before each token, in its own text.
    before = is_end.cumsum(0) - is_end
    starts = texts.lengths.cumsum(0) - texts.lengths
    base = torch.cat([before, before.new_zeros(1)])[starts]
    kept = before == base[owners]
    return Texts(texts.ids[kept], torch.bincount(owners[kept], minlength=len(texts)))


def _checked_end(who: str, end_token: Any) -> Tensor:
    end = torch.as_tensor(list(end_token) if isinstance(end_token, (tuple, set, frozenset)) else end_token)
    if end.dim() > 1 or not end.numel() or not _is_whole(end):
        raise ArgumentError(
            who, "end_token", end_token, "it must be an id, or several", "pass the tokenizer's end token"
        )
    return end.reshape(-1)


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool)
