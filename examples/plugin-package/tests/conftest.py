"""A small regression in float64, and a way to train it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Regression(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def module() -> Callable[[], Regression]:
    """Makes the module, with the same weights every time."""
    return Regression


@pytest.fixture
def loader() -> Callable[[], DataLoader[tuple[Tensor, ...]]]:
    """Makes a loader of six batches in a fixed order."""

    def make() -> DataLoader[tuple[Tensor, ...]]:
        x = torch.randn(24, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return DataLoader(TensorDataset(x, x.sum(1, keepdim=True).sin()), batch_size=4)

    return make


@pytest.fixture
def fit(tmp_path: Path, loader: Callable[[], DataLoader[tuple[Tensor, ...]]]) -> Callable[..., LightningModule]:
    """Trains a module for one epoch, with callbacks and settings of the Trainer; its files go to the test's folder."""

    def train(module: LightningModule, *callbacks: Callback, **settings: Any) -> LightningModule:
        trainer = Trainer(
            accelerator="cpu",
            callbacks=list(callbacks),
            default_root_dir=tmp_path,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **settings,
        )
        trainer.fit(module, loader())
        return module

    return train
