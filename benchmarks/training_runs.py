"""The network and the Trainer that the benchmarks of training time share."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*does not have many workers")
warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec.` is deprecated")

WIDE = 3600
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Residual(nn.Module):
    """Two convolutions with batch normalisation, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(images + self.body(images))


def residual_network(width: int, blocks: int) -> nn.Module:
    """A small residual network for 3-channel images and ten classes."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        *(Residual(width) for _ in range(blocks)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(width, 10),
    )


def wide_network() -> nn.Module:
    """Two layers of WIDE² weights each, which outweigh everything else in memory."""
    return nn.Sequential(nn.Linear(WIDE, WIDE), nn.ReLU(), nn.Linear(WIDE, WIDE), nn.ReLU(), nn.Linear(WIDE, 10))


def images(count: int, batch_size: int, size: int = 16) -> DataLoader[Any]:
    """Random images and labels: what they show does not matter for time."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(count, 3, size, size, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return DataLoader(TensorDataset(data, labels), batch_size=batch_size)


class Classifier(pl.LightningModule):
    """Cross-entropy on images; logs its loss as users' modules do."""

    def __init__(self, network: nn.Module, make_optimizer: MakeOptimizer) -> None:
        super().__init__()
        self.network = network
        self.make_optimizer = make_optimizer

    def loss(self, batch: list[Tensor]) -> Tensor:
        """Mean cross-entropy of a batch."""
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor | None:
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(list(self.parameters()))


class Clock(pl.Callback):
    """Wall-clock and processor time of every step, from Lightning's hook before it to the hook after it."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []
        self._began = (0.0, 0.0)

    def on_train_batch_start(self, *_: Any) -> None:
        self._began = (time.perf_counter(), time.process_time())

    def on_train_batch_end(self, *_: Any) -> None:
        self.wall.append(time.perf_counter() - self._began[0])
        self.processor.append(time.process_time() - self._began[1])


def train(
    module: pl.LightningModule,
    loader: Any,
    callbacks: list[pl.Callback],
    epochs: int = 1,
    limit_train_batches: int | None = None,
) -> None:
    """Fit on one processor without a logger, a checkpoint or anything on the screen."""
    folder = tempfile.TemporaryDirectory()  # what methods report goes to files below it
    trainer = pl.Trainer(
        default_root_dir=folder.name,
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        limit_train_batches=limit_train_batches,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with folder:
        trainer.fit(module, loader)


def step_time(
    module: pl.LightningModule, loader: Any, steps: int, callbacks: list[pl.Callback], quantile: float = 0.5
) -> tuple[float, float]:
    """Wall-clock and processor seconds of a step; the first two steps do not count.

    Args:
        module: What is trained.
        loader: Its batches.
        steps: How many steps count.
        callbacks: Of the Trainer.
        quantile: Which of the steps' times: 0.5 is the median. A machine that does other things only ever makes a step
            longer, so that a low quantile tells small differences that the median does not.
    """
    clock = Clock()
    # Not max_steps: an optimizer that a module steps past Lightning's wrapper is not counted.
    train(module, loader, [clock, *callbacks], limit_train_batches=steps + 2)
    return float(np.quantile(clock.wall[2:], quantile)), float(np.quantile(clock.processor[2:], quantile))
