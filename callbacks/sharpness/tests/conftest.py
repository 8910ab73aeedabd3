"""One small classifier, and a way to train it, for every test of the family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

SAMPLES, FEATURES, CLASSES = 24, 4, 3


class Classifier(LightningModule):
    """An MLP on vectors; `dtype` float64 for comparisons with a reference."""

    def __init__(self, dtype: torch.dtype = torch.float32, momentum: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 6), nn.Tanh(), nn.Linear(6, CLASSES)).to(dtype)
        self.momentum = momentum

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=self.momentum)


def make_data(dtype: torch.dtype = torch.float32) -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, FEATURES, generator=generator, dtype=dtype)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long())


def fit_module(module: LightningModule, *callbacks: Callback, data: Any = None, **settings: Any) -> LightningModule:
    """Train for two epochs of three batches in a fixed order, unless told otherwise."""
    arguments: dict[str, Any] = {"max_epochs": 2, "enable_checkpointing": False, "logger": False} | settings
    checkpoint = arguments.pop("ckpt_path", None)
    trainer = Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    loader = data if isinstance(data, (DataLoader, CombinedLoader)) else DataLoader(data or make_data(), batch_size=8)
    trainer.fit(module, loader, ckpt_path=checkpoint)
    return module


@pytest.fixture
def classifier() -> Callable[..., Classifier]:
    """Makes the classifier, with the same weights every time."""

    def make(**arguments: Any) -> Classifier:
        torch.manual_seed(0)
        return Classifier(**arguments)

    return make


@pytest.fixture
def dataset() -> Callable[..., TensorDataset]:
    return make_data


@pytest.fixture
def fit() -> Callable[..., LightningModule]:
    return fit_module


@pytest.fixture
def weights() -> Callable[[nn.Module], Tensor]:
    """All parameters of a module in one vector."""

    def flat(module: nn.Module) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])

    return flat
