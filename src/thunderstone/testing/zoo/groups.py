"""A module with a frozen part and two parameter groups."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from thunderstone.testing.zoo.data import CLASSES, FEATURES


class Groups(LightningModule):
    """A backbone nobody trains, one that is fine-tuned slowly, and a head; a parameter no loss ever reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(FEATURES, FEATURES).requires_grad_(False)
        self.backbone = nn.Sequential(nn.Linear(FEATURES, 12), nn.LayerNorm(12), nn.GELU())
        self.head = nn.Linear(12, CLASSES)
        self.unused = nn.Parameter(torch.ones(3))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, labels = batch
        loss = nn.functional.cross_entropy(self.head(self.backbone(self.frozen(inputs))), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        slow: dict[str, Any] = {"params": self.backbone.parameters(), "lr": 1e-3, "weight_decay": 0.0}
        return torch.optim.AdamW([slow, {"params": [*self.head.parameters(), self.unused]}], lr=1e-2)
