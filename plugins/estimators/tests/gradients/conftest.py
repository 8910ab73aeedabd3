"""A small network and a small run for every test of the gradient methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

FEATURES, CLASSES = 4, 3


class Classifier(LightningModule):
    """An MLP on vectors; float64 for comparisons with a reference."""

    def __init__(self, *extra: nn.Module, dtype: torch.dtype = torch.float64, lr: float = 0.2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(FEATURES, 6), *extra, nn.Tanh(), nn.Linear(6, CLASSES)).to(dtype)
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return output

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def make_data(count: int = 24, dtype: torch.dtype = torch.float64) -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, FEATURES, generator=generator, dtype=torch.float64).to(dtype)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long())


def fit_module(module: LightningModule, *callbacks: Callback, data: Any = None, **settings: Any) -> Trainer:
    """Train for two epochs of three batches in a fixed order, unless told otherwise."""
    arguments: dict[str, Any] = {"max_epochs": 2, "enable_checkpointing": False, "logger": False, **settings}
    trainer = Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(module, data if data is not None else DataLoader(make_data(), batch_size=8))
    return trainer


@pytest.fixture
def classifier() -> type[Classifier]:
    """Makes the classifier, with the same weights every time."""
    return Classifier


@pytest.fixture
def dataset() -> Callable[..., TensorDataset]:
    return make_data


@pytest.fixture
def fit() -> Callable[..., Trainer]:
    return fit_module


@pytest.fixture
def weights() -> Callable[[nn.Module], Tensor]:
    """All parameters of a module in one vector."""

    def flat(module: nn.Module) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])

    return flat


class Reported(Callback):
    """Keeps what methods record, by key."""

    def __init__(self) -> None:
        self.values: dict[str, list[Any]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from thunderstone import Method, hookimpl

        reported = self

        class Observer:
            @hookimpl
            def record(self, record: Any) -> None:
                value = record.value.detach().clone() if isinstance(record.value, Tensor) else record.value
                reported.values.setdefault(record.key, []).append(value)

        methods = [callback for callback in trainer.callbacks if isinstance(callback, Method)]  # type: ignore[attr-defined]
        methods[0].attachment.manager.register(Observer())


@pytest.fixture
def reported() -> Reported:
    return Reported()
