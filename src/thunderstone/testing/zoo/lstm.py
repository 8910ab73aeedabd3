"""A recurrent network for regression."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn


class LSTM(LightningModule):
    """Weights in one flat list, used at every step of time."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(1, 8, num_layers=2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        series, target = batch
        states, _ = self.recurrent(series)
        loss = nn.functional.mse_loss(self.head(states[:, -1]), target)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)
