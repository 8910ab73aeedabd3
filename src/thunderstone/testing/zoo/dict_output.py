"""A module whose training step returns a dictionary and which keeps statistics of its own."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from thunderstone.testing.zoo.data import CLASSES, FEATURES


class DictOutput(LightningModule):
    """``{"loss": ..., "logits": ...}``, a buffer and a plain counter updated by hand, a skipped batch."""

    running_mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("running_mean", torch.zeros(FEATURES))
        self.seen = 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Any] | None:
        inputs, labels = batch
        self.seen += len(labels)
        self.running_mean = 0.9 * self.running_mean + 0.1 * inputs.mean(dim=0)
        if batch_idx == 2:
            return None
        logits = self.layer(inputs - self.running_mean)
        loss = nn.functional.cross_entropy(logits, labels)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.log("seen", float(self.seen), on_step=True)
        return {"loss": loss, "logits": logits.detach()}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.RMSprop(self.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
