"""A script that trains in two processes, with and without the two methods; writes what each process ends with.

python two_processes.py FOLDER
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thunderstone_sharpness import OpposingSignals, SharpnessMonitor


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        # Summed over processes: a measure on one process alone would wait for the other for ever.
        self.log("loss", loss, sync_dist=True)
        return loss + 0 * self.all_gather(loss.detach()).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Losses(Callback):
    """Keeps what OpposingSignals knows at the end."""

    def __init__(self) -> None:
        self.history = torch.zeros(0)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in trainer.callbacks:
            if isinstance(callback, OpposingSignals):
                self.history = callback.state_dict()["history"]


def main(folder: Path) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 5, generator=generator)
    data = TensorDataset(x, (x[:, 0] > 0).long())
    result: dict[str, Any] = {}
    for name in ("plain", "watched"):
        small: dict[str, Any] = {"examples": 16, "batch_size": 8, "draws": 2, "probes": 2, "steps": 2, "points": 3}
        monitor = SharpnessMonitor(every_n_epochs=1, **small)
        losses = Losses()
        methods = [monitor, OpposingSignals(examples=16, every_n_steps=2), losses] if name == "watched" else []
        torch.manual_seed(0)
        module = Module()
        trainer = Trainer(
            accelerator="cpu",
            strategy="ddp",
            devices=2,
            max_epochs=2,
            callbacks=methods,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, DataLoader(data, batch_size=8, shuffle=True))
        result[name] = torch.cat([value.detach().flatten().double() for value in module.state_dict().values()])
        outcomes = [item for reading in monitor.readings for item in reading.outcome.items()]
        result["measured"] = {key: float(value) for key, value in outcomes if not hasattr(value, "savefig")}
        result["status"] = [reading.status for reading in monitor.readings]
        result["history"] = losses.history
    torch.save(result, folder / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
