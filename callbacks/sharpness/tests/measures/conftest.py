"""Modules to measure, and a way to see that measuring left them alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

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
