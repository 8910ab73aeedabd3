"""`classifier`, and what earlier runs of it have found: tickets/round-3.ckpt and round-5.ckpt, structure.pt."""

from __future__ import annotations

from pathlib import Path

import classifier
import torch
from classifier import Net as Net
from classifier import loader as loader
from lightning.pytorch import Trainer

from thunderstone import Method
from thunderstone_pruning import IMP, StructuredPruning

training_data = loader
module = model = Net()


def test_error(network: torch.nn.Module) -> float:
    """The share of the images that the network takes for the other kind."""
    images, labels = loader.dataset.tensors
    with torch.no_grad():
        return float((network(images).argmax(1) != labels).float().mean())


def prepare() -> None:
    """Find the tickets and the structure, in the page's folder."""
    _trained(IMP(rounds=5), "found")
    Path("tickets").mkdir()
    for ticket in Path("found").rglob("round-[35].ckpt"):
        ticket.rename(Path("tickets", ticket.name))
    _trained(StructuredPruning(ratio=0.5, start=0), "smaller")
    next(Path("smaller").rglob("*.pt")).rename("structure.pt")


def _trained(method: Method, folder: str) -> None:
    trainer = Trainer(
        callbacks=[method],
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(classifier.Net())
