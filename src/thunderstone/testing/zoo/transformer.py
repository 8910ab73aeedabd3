"""A tiny causal language model whose output layer is its embedding."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from thunderstone.testing.zoo.data import vocabulary

_WIDTH = 8


class Transformer(LightningModule):
    """Attention, layer normalisation, and one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary(), _WIDTH)
        self.block = nn.TransformerEncoderLayer(_WIDTH, 2, dim_feedforward=16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(_WIDTH, vocabulary(), bias=False)
        self.head.weight = self.embedding.weight

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        (tokens,) = batch
        past, future = tokens[:, :-1], tokens[:, 1:]
        mask = nn.Transformer.generate_square_subsequent_mask(past.shape[1], device=past.device)
        logits = self.head(self.block(self.embedding(past), src_mask=mask, is_causal=True))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), future.flatten())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)
