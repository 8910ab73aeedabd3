"""A small regression: `Net`, `module` (also `model`), `loader`. Its submodule `net` gives one number a sample."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, y = batch
        return (self.net(x) - y).square().mean()

    def train_dataloader(self) -> DataLoader:
        return loader

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-2)


torch.manual_seed(0)
_x = torch.randn(32, 6)
loader = DataLoader(TensorDataset(_x, _x.square().sum(1, keepdim=True)), batch_size=8, shuffle=True)
module = model = Net()
