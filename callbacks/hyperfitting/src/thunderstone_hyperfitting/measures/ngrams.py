"""n-grams as single numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thunderstone_hyperfitting.measures.texts import Texts


@dataclass(frozen=True)
class NGrams:
    """The G n-grams that stand in texts, in order.

    Attributes:
        kinds: (G,) int64 from 0: equal n-grams have equal numbers, in all texts.
        owners: (G,) int64, the text that each stands in.
        texts: N.
        different: How many kinds there are.
    """

    kinds: Tensor
    owners: Tensor
    texts: int
    different: int

    def per_text(self) -> Tensor:
        """(N,) int64: the n-grams of each text."""
        return torch.bincount(self.owners, minlength=self.texts)

    def counted(self) -> tuple[Tensor, Tensor, Tensor]:
        """Text, kind and count of each kind of each text, ordered by text and then kind."""
        keys, counts = torch.unique(self.owners * max(self.different, 1) + self.kinds, return_counts=True)
        different = max(self.different, 1)
        return keys // different, keys % different, counts

    def different_per_text(self) -> Tensor:
        """(N,) int64: the kinds of each text."""
        return torch.bincount(self.counted()[0], minlength=self.texts)


def ngrams(texts: Texts, n: int) -> NGrams:
    """The n-grams of the texts; none runs from one text into the next.

    An n-gram is a pair of an (n-1)-gram and a token, and pairs are numbered anew for every n: numbers stay below the
    number of tokens, so that no pair overflows and no two n-grams share one.
    """
    _, tokens = torch.unique(texts.ids, return_inverse=True)
    left = texts.left
    starts = torch.arange(len(tokens), device=tokens.device)
    kinds = tokens
    for size in range(2, n + 1):
        kept = left[starts] >= size
        starts, kinds = starts[kept], kinds[kept]
        _, kinds = torch.unique(kinds * len(tokens) + tokens[starts + size - 1], return_inverse=True)
    different = int(kinds.max()) + 1 if kinds.numel() else 0
    return NGrams(kinds, texts.owners[starts], len(texts), different)
