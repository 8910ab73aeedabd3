"""The demo's LightningModule: an ordinary one, which knows of no method."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR

SUBSETS = ("test", "memorised")


class DigitsNetwork(pl.LightningModule):
    """Three convolutions with batch normalisation and a linear layer, for 8×8 images of ten classes.

    Two validation loaders are expected, as `SUBSETS` says: the test images with their true labels, and the training
    images whose label is wrong with that wrong label; the share of the latter that is predicted is what has been
    learnt by heart.

    Args:
        learning_rate: Of SGD with momentum 0.9, annealed to zero along a cosine.
        weight_decay: Of SGD.
        width: Channels of the first convolution.
    """

    def __init__(self, learning_rate: float = 0.1, weight_decay: float = 5e-4, width: int = 16) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.network = nn.Sequential(
            *_convolution(1, width),
            *_convolution(width, 2 * width, stride=2),
            *_convolution(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * width, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float (batch, 10), of images (batch, 1, 8, 8)."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = functional.cross_entropy(self(images), labels)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        images, labels = batch
        right = (self(images).argmax(dim=1) == labels).float().mean()
        self.log(f"accuracy/{SUBSETS[dataloader_idx]}", right, batch_size=len(labels), add_dataloader_idx=False)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(
            self.parameters(), lr=self.learning_rate, momentum=0.9, nesterov=True, weight_decay=self.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [{"scheduler": CosineAnnealingLR(optimizer, steps), "interval": "step"}]


def _convolution(channels: int, width: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
