"""One training of a small network on scikit-learn's digits: an ordinary script, which knows of no method.

It is what `sweep.yaml` runs again and again, each time with another radius of SAM attached by `thunderstone run`:

    wandb sweep examples/sweep.yaml        # prints the sweep's name
    wandb agent NAME                       # once, or on as many machines as there are

By hand it is `thunderstone run --with sam:rho=0.05 --seed 0 examples/sweep_digits.py`; with WANDB_MODE=offline no
account is needed for that. Files are written below WANDB_DIR, or the current folder.
"""

from __future__ import annotations

import logging
import os
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 10
BATCH = 64


class Classifier(LightningModule):
    """Cross-entropy on vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor]) -> None:
        self.log("test_accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    raw = load_digits()
    # The same split in every run, whatever its seed: runs of one seed differ in the method alone.
    order = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(raw.data / 16, dtype=torch.float32)[order], torch.tensor(raw.target)[order]
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        logger=WandbLogger(project="digits", save_dir=os.environ.get("WANDB_DIR", ".")),
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        Classifier(),
        DataLoader(TensorDataset(x[:1200], y[:1200]), BATCH, shuffle=True),
        DataLoader(TensorDataset(x[1200:], y[1200:]), 600),
    )


if __name__ == "__main__":
    main()
