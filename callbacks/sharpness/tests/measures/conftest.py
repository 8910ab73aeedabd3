"""Modules to measure, and a way to see that measuring left them alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchmetrics import MeanMetric

from thunderstone import Method, Record, hookimpl

EXAMPLES, FEATURES, CLASSES = 48, 5, 3


class Network(nn.Module):
    """Normalisation, dropout, a counter and a list: everything a forward pass can change."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, CLASSES)
        ).to(dtype)
        self.calls = 0
        self.outputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.outputs.append(x.mean())
        return self.net(x)


def cross_entropy(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(module(batch[0]), batch[1])


@pytest.fixture
def loss() -> Callable[[nn.Module, Any], Tensor]:
    return cross_entropy


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    """Three batches, the last one smaller, in float64."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(EXAMPLES, FEATURES, generator=generator, dtype=torch.float64)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.4).long()
    return [(x[:20], y[:20]), (x[20:40], y[20:40]), (x[40:], y[40:])]


@pytest.fixture
def network(batches: list[tuple[Tensor, Tensor]]) -> Network:
    """Partly trained, in training mode, with gradients on it."""
    torch.manual_seed(0)
    module = Network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    for step in range(60):
        optimizer.zero_grad()
        cross_entropy(module, batches[step % 3]).backward()
        optimizer.step()
    module.outputs.clear()
    return module


class Snapshot:
    """Everything about a module and the process that a measure could change, bit by bit."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.tensors = {name: value.clone() for name, value in module.state_dict().items()}
        self.pointers = [parameter.data_ptr() for parameter in module.parameters()]
        self.gradients = [parameter.grad for parameter in module.parameters()]
        self.gradient_values = [None if grad is None else grad.clone() for grad in self.gradients]
        self.modes = [child.training for child in module.modules()]
        self.hooks = [len(child._forward_hooks) for child in module.modules()]
        self.plain = {key: value for key, value in vars(module).items() if isinstance(value, int)}
        self.lists = {key: len(value) for key, value in vars(module).items() if isinstance(value, list)}
        self.random = (random.getstate(), np.random.get_state(), torch.get_rng_state())
        self.settings = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))

    def assert_same(self) -> None:
        now = Snapshot(self.module)
        for name, value in self.tensors.items():
            assert torch.equal(value, now.tensors[name]), f"{name} changed"
        assert now.pointers == self.pointers
        assert all(new is old for new, old in zip(now.gradients, self.gradients, strict=True)), (
            "a gradient was replaced"
        )
        for new, old in zip(now.gradients, self.gradient_values, strict=True):
            assert (new is None and old is None) or torch.equal(new, old), "a gradient changed"
        assert now.modes == self.modes
        assert now.hooks == self.hooks
        assert now.plain == self.plain
        assert now.lists == self.lists
        assert now.random[0] == self.random[0]
        assert all(np.array_equal(new, old) for new, old in zip(now.random[1], self.random[1], strict=True))
        assert torch.equal(now.random[2], self.random[2])
        assert now.settings == self.settings


@pytest.fixture
def snapshot() -> type[Snapshot]:
    return Snapshot


class Probed(LightningModule):
    """Draws, counts, logs and keeps a metric in its training step."""

    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.in_place = in_place
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, CLASSES)
        )
        self.accuracy = MeanMetric()
        self.losses: list[float] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        x, y = batch.pop("x"), batch.pop("y")
        logits = self.net(x.add_(0.01) if self.in_place else x + 0.01)
        loss = nn.functional.cross_entropy(logits, y)
        self.accuracy(logits.argmax(1) == y)
        self.losses.append(loss.item())
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(y))
        self.log("train/accuracy", self.accuracy, on_step=False, on_epoch=True, batch_size=len(y))
        return {"loss": loss}

    def features(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["x"]).square().mean()

    def each(self, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch["x"]), batch["y"], reduction="none")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = [{"params": self.net[0].parameters(), "lr": 0.05}, {"params": self.net[1:].parameters()}]
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


class Augmented(Dataset[dict[str, Tensor]]):
    """Examples with noise from every source of randomness, one of them the dataset's own."""

    def __init__(self, length: int = 40) -> None:
        generator = torch.Generator().manual_seed(4)
        self.x = torch.randn(length, FEATURES, generator=generator)
        self.y = (self.x[:, 0] > 0).long() + (self.x[:, 1] > 0.4).long()
        self.own = np.random.default_rng(0)
        self.torch_own = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        noise = torch.randn(FEATURES) + torch.randn(FEATURES, generator=self.torch_own)
        return {"x": self.x[index] + 0.1 * noise + 0.1 * self.own.normal() + random.random(), "y": self.y[index]}


class Streamed(IterableDataset[dict[str, Tensor]]):
    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        data = Augmented()
        for index in range(len(data)):
            yield {"x": data.x[index], "y": data.y[index]}


class Observer:
    """Takes what methods report."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    @hookimpl
    def record(self, record: Record) -> None:
        self.records.append(record)

    def named(self, key: str) -> list[Record]:
        return [record for record in self.records if record.key == key]


class Listening(Callback):
    """Registers an observer with the attachment of the method beside it."""

    def __init__(self, method: Method) -> None:
        self.method, self.observer = method, Observer()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.method.attachment.manager.register(self.observer)


def train(*callbacks: Callback, module: Any = Probed, data: Any = None, **settings: Any) -> tuple[Any, Trainer]:
    """Three epochs of five shuffled batches, from the same random state each time."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    module = module if isinstance(module, LightningModule) else module()
    data = Augmented() if data is None else data
    arguments: dict[str, Any] = {"max_epochs": 3, "enable_checkpointing": False, "logger": False} | settings
    ckpt_path = arguments.pop("ckpt_path", None)
    trainer = Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    shuffle = not isinstance(data, IterableDataset)
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=8, shuffle=shuffle)
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return module, trainer


@pytest.fixture
def training() -> SimpleNamespace:
    """What the tests of the two methods share."""
    return SimpleNamespace(
        train=train, Probed=Probed, Augmented=Augmented, Streamed=Streamed, Listening=Listening, same=same_run
    )


def _same_metrics(plain: dict[str, Any], watched: dict[str, Any]) -> bool:
    """What the plain run has, the other has too; what it has besides is what its methods report."""
    return all(torch.equal(watched[key], value) for key, value in plain.items()) and all(
        "/" in key for key in watched.keys() - plain.keys()
    )


def same_run(first: tuple[Any, Trainer], second: tuple[Any, Trainer]) -> bool:
    """Whether two runs have the same weights, statistics, optimizer, logged values and losses, to the last bit."""
    (one, one_trainer), (other, other_trainer) = first, second
    tensors = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    states = (trainer.optimizers[0].state_dict()["state"] for trainer in (one_trainer, other_trainer))
    buffers = zip(*(list(state.values()) for state in states), strict=True)
    return (
        all(torch.equal(a, b) for a, b in tensors)
        and all(torch.equal(a["momentum_buffer"], b["momentum_buffer"]) for a, b in buffers)
        and one.losses == other.losses
        and _same_metrics(one_trainer.callback_metrics, other_trainer.callback_metrics)
        and one_trainer.global_step == other_trainer.global_step
    )
