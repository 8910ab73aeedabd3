"""Networks with channels and blocks that can go; run as a program it trains one on two replicas."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

Norm = Callable[[int], nn.Module]


def one_group(channels: int) -> nn.Module:
    """Normalisation of each sample by itself: the same for batches of any size."""
    return nn.GroupNorm(1, channels)


class Residual(nn.Module):
    """x + f(x), with an activation behind the sum or not."""

    def __init__(self, channels: int, behind: bool = False, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = norm(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.behind = behind

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(torch.relu(self.norm(self.first(x)))) + x
        return torch.relu(out) if self.behind else out


class Shortcut(nn.Module):
    """A layer in the shortcut: the number of channels changes."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(before, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Net(nn.Module):
    """A small residual network for images of 1 x 6 x 6."""

    def __init__(self, width: int = 6, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), norm(width), nn.ReLU())
        self.blocks = nn.Sequential(
            Residual(width, True, norm),
            Residual(width, False, norm),
            Shortcut(width, 8),
            Residual(8, False, norm),
            Residual(8, True, norm),
        )
        self.hidden = nn.Linear(8 * 4, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = nn.functional.adaptive_avg_pool2d(self.blocks(self.stem(x)), 2)
        return self.head(torch.relu(self.hidden(out.flatten(1))))


class Images(LightningModule):
    """Classifies with `Net`."""

    def __init__(self, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.net = Net(norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def images(samples: int = 24) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(samples, 1, 6, 6, generator=generator)
    return TensorDataset(x, (x[:, 0, 0, 0] > 0).long() + (x[:, 0, 3, 3] > 0.5).long())


def trained(method: Any, replicas: int, folder: str) -> dict[str, Tensor]:
    """The weights a run of six updates ends with; the joint batches are the same for one and two replicas."""
    torch.manual_seed(0)
    module = Images(one_group)
    trainer = Trainer(
        accelerator="cpu",
        devices=replicas,
        strategy="ddp" if replicas > 1 else "auto",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        use_distributed_sampler=False,
        callbacks=[method],
    )
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    sampler = DistributedSampler(images(), replicas, rank, shuffle=False)
    trainer.fit(module, DataLoader(images(), batch_size=8 // replicas, sampler=sampler))
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


if __name__ == "__main__":
    from thunderstone_pruning import StructuredPruning

    found = trained(StructuredPruning(0.5, start=2), 2, sys.argv[1])
    torch.save(found, Path(sys.argv[1]) / f"rank{os.environ.get('LOCAL_RANK', '0')}.pt")
