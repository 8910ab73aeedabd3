"""One small classifier, a way to train it, and the same training written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

SAMPLES, FEATURES, CLASSES, BATCH = 24, 4, 3, 8
RATE, MOMENTUM = 0.2, 0.9


class Classifier(LightningModule):
    """An MLP on vectors; `noisy` adds dropout and running statistics, `dtype` float64 is for references."""

    def __init__(self, dtype: torch.dtype = torch.float32, noisy: bool = False) -> None:
        super().__init__()
        between = [nn.BatchNorm1d(6), nn.Dropout(0.3)] if noisy else []
        self.net = nn.Sequential(nn.Linear(FEATURES, 6), *between, nn.Tanh(), nn.Linear(6, CLASSES)).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=RATE, momentum=MOMENTUM)


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
    loader = data if isinstance(data, DataLoader) else DataLoader(data or make_data(), batch_size=BATCH)
    trainer.fit(module, loader, ckpt_path=checkpoint)
    return module


class ByHand:
    """The classifier's training in float64: SGD with momentum under masks, one method call an update.

    Attributes:
        weights: Parameters by name.
        masks: Of the two weight matrices.
        slots: Momentum by name.
    """

    def __init__(self, module: Classifier) -> None:
        self.weights = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        self.names = [name for name in self.weights if name.endswith("weight")]
        self.masks = {name: torch.ones_like(self.weights[name]) for name in self.names}
        self.slots: dict[str, Tensor] = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.data = make_data(torch.float64).tensors
        self.updates = 0

    def gradients(self, batch: int) -> dict[str, Tensor]:
        x, y = (tensor[BATCH * batch : BATCH * (batch + 1)] for tensor in self.data)
        leaves = {name: weight.clone().requires_grad_() for name, weight in self.weights.items()}
        first, first_bias, second, second_bias = leaves.values()
        logits = torch.tanh(x @ first.T + first_bias) @ second.T + second_bias
        loss = nn.functional.cross_entropy(logits, y)
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    def mask(self) -> None:
        for name in self.names:
            self.weights[name] = self.weights[name] * self.masks[name]
            self.slots[name] = self.slots[name] * self.masks[name]

    def update(self) -> dict[str, Tensor]:
        """One step; returns the gradients as they were before masking."""
        gradients = self.gradients(self.updates % (SAMPLES // BATCH))
        for name, gradient in gradients.items():
            masked = gradient * self.masks[name] if name in self.masks else gradient
            self.slots[name] = MOMENTUM * self.slots[name] + masked
            self.weights[name] = self.weights[name] - RATE * self.slots[name]
        self.mask()
        self.updates += 1
        return gradients


def sorted_keep(scores: dict[str, Tensor], keep: int) -> dict[str, Tensor]:
    """Masks of 0 and 1 of the largest scores over all layers, by sorting; scores of what is gone are -1."""
    order = sorted(
        ((-value, name, position) for name in scores for position, value in enumerate(scores[name].flatten().tolist()))
    )
    masks = {name: torch.zeros_like(score) for name, score in scores.items()}
    for _, name, position in order[:keep]:
        masks[name].view(-1)[position] = 1
    return masks


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
def by_hand() -> type[ByHand]:
    return ByHand


@pytest.fixture
def keep_by_sorting() -> Callable[[dict[str, Tensor], int], dict[str, Tensor]]:
    return sorted_keep


@pytest.fixture
def same() -> Callable[[nn.Module, dict[str, Tensor]], None]:
    """Asserts that a module has these parameters, up to rounding in float64."""

    def check(module: nn.Module, expected: dict[str, Tensor]) -> None:
        found = {name: parameter.detach() for name, parameter in module.named_parameters()}
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
        for name in found:
            assert (found[name] == 0).equal(expected[name] == 0)

    return check
