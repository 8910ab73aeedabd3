"""Generated texts: while they grow, and as they are returned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def within(lengths: Tensor, width: int) -> Tensor:
    """The mask (N, width) that is True at the first ``lengths[i]`` places of row i."""
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)


@dataclass(frozen=True)
class Generation:
    """Continuations of N prompts, without the prompts.

    Attributes:
        tokens: (N, L) int64; L is the longest length, and what stands after a text's length is the pad token.
        lengths: (N,) int64, at least 1. A stop token is the last token of its text and counts.
        stopped: (N,) bool, whether the text ended with a stop token.
        log_probabilities: (N, L) of the tokens, 0 after the length; None where they were not asked for.
    """

    tokens: Tensor
    lengths: Tensor
    stopped: Tensor
    log_probabilities: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """(N, L) bool, True where a token belongs to its text. From the lengths: a pad token may also be generated."""
        return within(self.lengths, self.tokens.shape[1])

    def as_lists(self) -> list[list[int]]:
        """The texts as lists of their own lengths, as tokenizers decode them."""
        pairs = zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)
        return [row[:length] for row, length in pairs]


class GrowingTexts:
    """N texts under way, of at most `width` tokens each.

    Args:
        texts: N.
        width: Most tokens of a text.
        stop_tokens: What ends a text.
        pad_token: What stands where there is no token.
        device: Where the tokens are kept.
        log_probabilities: Whether each token's is kept too.
    """

    def __init__(
        self,
        texts: int,
        width: int,
        stop_tokens: tuple[int, ...],
        pad_token: int,
        device: torch.device,
        log_probabilities: bool,
    ) -> None:
        self.tokens = torch.full((texts, width), pad_token, dtype=torch.int64, device=device)
        self.lengths = torch.zeros(texts, dtype=torch.int64, device=device)
        self.stopped = torch.zeros(texts, dtype=torch.bool, device=device)
        self.log_probabilities: Tensor | None = None
        self._keeps_log_probabilities = log_probabilities
        self._stop_tokens = torch.tensor(stop_tokens, dtype=torch.int64, device=device)

    def append(self, rows: Tensor, tokens: Tensor, log_probabilities: Tensor | None) -> None:
        """Put one more token to each of the texts `rows` (B,), none of which has stopped."""
        places = self.lengths[rows]
        self.tokens[rows, places] = tokens
        if log_probabilities is not None and self._keeps_log_probabilities:
            if self.log_probabilities is None:
                self.log_probabilities = log_probabilities.new_zeros(self.tokens.shape)
            self.log_probabilities[rows, places] = log_probabilities
        self.lengths[rows] = places + 1
        if self._stop_tokens.numel():
            self.stopped[rows] = torch.isin(tokens, self._stop_tokens)

    def finished(self) -> Generation:
        """The texts as they are, cut to the longest."""
        width = int(self.lengths.max())
        scores = self.log_probabilities
        return Generation(
            self.tokens[:, :width].clone(),
            self.lengths,
            self.stopped,
            None if scores is None else scores[:, :width].clone(),
        )
