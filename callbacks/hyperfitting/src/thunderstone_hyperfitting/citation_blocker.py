"""Citation blocking: no verbatim n-gram of the training set is continued as it continues there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.arguments import whole
from thunderstone_hyperfitting.measures.overlap import training_texts
from thunderstone_hyperfitting.measures.texts import Texts, Tokens

WHO = "CitationBlocker"


class CitationBlocker:
    """Forbids every token that follows, somewhere in the training set, on the last `n` tokens of a text.

    Carlsson et al. 2024 (arXiv 2412.04318) block citations with n = 5. No n + 1 tokens in a row of which the last was
    generated under it stand in the training set. The prompt's tokens count as part of the text, so that a prompt from
    the training set is not continued as it goes on there.

    It is called like any Hugging Face LogitsProcessor, and `thunderstone.generation.generate` takes it too:
    ``generate(model, prompts, 96, processors=[CitationBlocker(training)])`` or
    ``model.generate(ids, logits_processor=LogitsProcessorList([CitationBlocker(training)]))``. The latter shows it the
    padding of shorter prompts, which it cannot tell from text.

    The training set's (n+1)-grams are kept as sorted numbers: about 16 n + 8 bytes for each of its tokens, less where
    they repeat.

    Args:
        training: Ids (M, T), or M lists of ids.
        n: How many tokens have to match.
        lengths: (M,) tokens of each training sequence; what follows is padding.
        end_token: Instead of `lengths`: the first of these is the last token of its sequence.

    Raises:
        ArgumentError: Tokens and lengths do not fit, or no sequence is longer than `n`.

    >>> blocker = CitationBlocker([[1, 2, 3, 4], [1, 2, 5]], n=2)
    >>> blocker(torch.tensor([[0, 1, 2]]), torch.zeros(1, 6))
    tensor([[0., 0., 0., -inf, 0., -inf]])
    """

    supports_continuous_batching = False

    def __init__(
        self,
        training: Tokens,
        n: int = 5,
        *,
        lengths: Tensor | None = None,
        end_token: int | tuple[int, ...] | None = None,
    ) -> None:
        self.n = whole(WHO, "n", n, "5 is the paper's")
        texts = training_texts(WHO, training, lengths, end_token)
        if int(texts.lengths.max()) <= self.n:
            reason = f"no training sequence is longer than that (the longest has {int(texts.lengths.max())} tokens)"
            raise ArgumentError(WHO, "n", n, reason, "use a smaller n")
        # Moved to the device of the scores when they are first seen.
        self._tokens, self._grams, self._starts, self._following = _index(texts, self.n)
        self._largest = int(self._tokens.max())

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores (B, V) with -inf at the tokens that are forbidden after `input_ids` (B, T).

        Raises:
            ArgumentError: The vocabulary is smaller than the training set's.
        """
        if self._largest >= scores.shape[-1]:
            reason = f"the vocabulary has {scores.shape[-1]} tokens"
            raise ArgumentError(WHO, "training", self._largest, reason, "tokenise it with the model's own tokenizer")
        if input_ids.shape[1] < self.n:
            return scores
        self._to(scores.device)
        gram = self._number(input_ids[:, -self.n :].to(scores.device))
        first, last = self._starts[gram.clamp(min=0)], self._starts[gram.clamp(min=0) + 1]
        counts = torch.where(gram >= 0, last - first, 0)
        rows = torch.repeat_interleave(torch.arange(len(gram), device=scores.device), counts)
        within = torch.arange(len(rows), device=scores.device) - (counts.cumsum(0) - counts)[rows]
        scores = scores.clone()
        scores[rows, self._following[first[rows] + within]] = -torch.inf
        return scores

    def _number(self, windows: Tensor) -> Tensor:
        """(B,): the number of each n-gram (B, n) of the training set, -1 where it has no such."""
        places = torch.stack([_place(self._tokens, column) for column in windows.unbind(1)], dim=1)
        gram = places[:, 0]
        for size, keys in enumerate(self._grams, start=1):
            known = (gram >= 0) & (places[:, size] >= 0)
            gram = torch.where(known, _place(keys, gram * len(self._tokens) + places[:, size]), -1)
        return gram

    def _to(self, device: torch.device) -> None:
        if self._tokens.device != device:
            self._tokens, self._starts = self._tokens.to(device), self._starts.to(device)
            self._following = self._following.to(device)
            self._grams = [keys.to(device) for keys in self._grams]

    def __repr__(self) -> str:
        return f"{WHO}(n={self.n})"


def _place(keys: Tensor, values: Tensor) -> Tensor:
    """The place of each value in the sorted keys, -1 where it is none of them."""
    place = torch.searchsorted(keys, values.contiguous()).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == values, place, -1)


def _index(texts: Texts, n: int) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """What follows on each n-gram that is followed by anything.

    A k-gram is the pair of a (k-1)-gram and a token, numbered by its place among the sorted pairs.

    Returns:
        The tokens, sorted; for k = 2 to n the pairs, sorted; where the followers of each n-gram start, and one entry
        more; the followers.
    """
    tokens, places = torch.unique(texts.ids, return_inverse=True)
    starts = (texts.left > n).nonzero().squeeze(1)
    gram: Any = places[starts]
    grams = []
    if n == 1:
        # All tokens are numbered, also those that nothing follows.
        different = len(tokens)
    for size in range(1, n):
        keys, gram = torch.unique(gram * len(tokens) + places[starts + size], return_inverse=True)
        grams.append(keys)
        different = len(keys)
    pairs = torch.unique(gram * len(tokens) + places[starts + n])
    counts = torch.bincount(pairs // len(tokens), minlength=different)
    first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return tokens, grams, first, tokens[pairs % len(tokens)]
