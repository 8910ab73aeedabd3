"""A small residual network that tells two kinds of noise apart: `Net`, `module` (also `model`), `loader`."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        blocks = nn.Sequential(_Block(8), _Block(8))
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), blocks, nn.Flatten(), nn.Linear(128, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_acc", (self.net(x).argmax(1) == y).float().mean())

    def train_dataloader(self) -> DataLoader:
        return loader

    def val_dataloader(self) -> DataLoader:
        return loader

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


torch.manual_seed(0)
_labels = torch.arange(32) % 2
_images = torch.randn(32, 1, 4, 4) + _labels.view(-1, 1, 1, 1)
loader = DataLoader(TensorDataset(_images, _labels), batch_size=8, shuffle=True)
module = model = Net()
