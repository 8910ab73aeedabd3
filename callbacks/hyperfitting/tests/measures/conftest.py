from __future__ import annotations

import pytest
import torch


@pytest.fixture
def padded():
    """`padded(texts, pad)`: a tensor with `pad` after each text, and the lengths."""

    def make(texts, pad=0):
        lengths = [len(text) for text in texts]
        tokens = torch.full((len(texts), max([*lengths, 1]) + 2), pad)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = torch.tensor(text, dtype=torch.int64)
        return tokens, torch.tensor(lengths)

    return make
