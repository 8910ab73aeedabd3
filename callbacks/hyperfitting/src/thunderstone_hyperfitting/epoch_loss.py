"""The mean training loss of an epoch, over all processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor


class EpochLoss:
    """A running mean that waits for the device only when it is read.

    Attributes:
        whole: Whether the epoch has been watched from its first batch on.
        counted: How many samples the last `mean` was over.
    """

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0
        self.whole = False
        self.counted = 0

    def begin(self) -> None:
        """A new epoch begins."""
        self._sum, self._count, self.whole = None, 0, True

    def add(self, loss: Tensor, count: int, scale: float = 1.0) -> None:
        """Count the mean loss (0-d, to be multiplied by `scale`) of `count` samples."""
        wide = torch.float32 if loss.device.type == "mps" else torch.float64
        total = loss.detach().to(wide) * (count * scale)
        self._sum = total if self._sum is None else self._sum + total
        self._count += count

    def totals(self, trainer: Trainer | None, device: torch.device) -> Tensor:
        """Sum of the losses and number of samples of each process, of shape (processes, 2), on the CPU.

        Every process has to ask.
        """
        wide = torch.float32 if device.type == "mps" else torch.float64
        own = torch.tensor([0.0, float(self._count)], dtype=wide, device=device)
        if self._sum is not None:
            own[0] = self._sum.to(device)
        if trainer is not None and trainer.world_size > 1:
            own = trainer.strategy.all_gather(own)
        return own.reshape(-1, 2).cpu()

    def mean(self, trainer: Trainer) -> float:
        """The mean over the samples of all processes, equal on each; NaN where there was none. Every process asks."""
        loss, count = self.totals(trainer, trainer.strategy.root_device).sum(dim=0).tolist()
        self.counted = int(count)
        return loss / count if count else float("nan")

    def state_dict(self, trainer: Trainer | None) -> dict[str, Any]:
        """What the processes have counted, and whether from the epoch's beginning."""
        device = trainer.strategy.root_device if trainer is not None else torch.device("cpu")
        return {"totals": self.totals(trainer, device), "whole": self.whole}

    def load_state_dict(self, state: dict[str, Any], rank: int, world_size: int) -> None:
        """Take up where the processes were; with another number of them the first one has counted everything."""
        totals: Tensor = state["totals"]
        if len(totals) != world_size:
            totals = torch.cat([totals.sum(dim=0, keepdim=True), totals.new_zeros(world_size - 1, 2)])
        loss, count = totals[rank].clone()
        self._sum, self._count, self.whole = loss, int(count), bool(state["whole"])


def batch_size(batch: Any) -> int:
    """Length of the first tensor that is found in a batch: of mappings and sequences the first that has one; or 1."""
    return _rows(batch) or 1


def _rows(part: Any) -> int:
    if isinstance(part, Tensor):
        return len(part) if part.dim() else 0
    if isinstance(part, Mapping):
        part = part.values()
    elif not isinstance(part, (list, tuple)):
        return 0
    return next((rows for one in part if (rows := _rows(one))), 0)
