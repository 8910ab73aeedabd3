"""A small training run in which a callback reports through a Tracker, as an attached method does."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from thunderstone import Method
from thunderstone.lightning_private import logging_step
from thunderstone.tracking.records import Artifact, Histogram, Record, Table
from thunderstone.tracking.scalars import taken
from thunderstone.tracking.tracker import Tracker

# What `Reporting` starts its Tracker with.
CONFIG = {"sharpened": {"rho": 0.05, "adaptive": False}, "sharpened_2": {"rho": 0.1, "adaptive": False}}


class Regression(LightningModule):
    """Linear regression with dropout: 8 batches an epoch, in random order."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(4, 1))
        self.inputs = torch.linspace(-1, 1, 16 * 4).reshape(16, 4)

    def loss(self, batch: list[Tensor]) -> Tensor:
        (inputs,) = batch
        return (self.network(inputs) - inputs.sum(1, keepdim=True)).square().mean()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.loss(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.inputs), batch_size=2, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.inputs), batch_size=8)


class Sharpened(Method):
    """A method with arguments worth tracking. It is never attached here, only described."""

    name = "sharpened"

    def __init__(self, rho: float = 0.05, adaptive: bool = False) -> None:
        self.rho = rho
        self.adaptive = adaptive


class Reporting(Callback):
    """Owns a Tracker for every fit and reports from the hooks its functions are given for.

    Args:
        hooks: By hook name, a function that gets this object; it calls `report`.
    """

    def __init__(self, **hooks: Callable[[Reporting], None]) -> None:
        self.hooks = hooks
        self.trackers: list[Tracker] = []
        self.trainer: Trainer | None = None

    def report(self, name: str, value: Any, within_step: bool = False) -> None:
        assert self.trainer is not None
        step, epoch = logging_step(self.trainer), self.trainer.current_epoch
        self.trackers[-1].record(Record("sharpened", name, taken(value), step, epoch, within_step))

    def _call(self, hook: str) -> None:
        if hook in self.hooks:
            self.hooks[hook](self)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trainer = trainer
        self.trackers.append(Tracker(trainer))
        self.trackers[-1].start([Sharpened(), Sharpened(rho=0.1)])
        self._call("fit_start")

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._call("step")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._call("epoch_end")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._call("validation_end")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        for tracker in self.trackers[-1:]:
            tracker.finish()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.trackers[-1].finish()


def trainer_for(reporting: Callback | list[Callback], **settings: Any) -> Trainer:
    """A quiet Trainer on the CPU, two epochs unless told otherwise."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "callbacks": reporting,
    }
    return Trainer(**{**defaults, **settings})


def figure() -> Figure:
    made = Figure(figsize=(2, 1), dpi=50)
    made.subplots().plot([1, 2])
    return made


def report_all(folder: Path) -> Reporting:
    """Reports one thing of every kind at the end of every epoch, and a scalar in every step."""
    folder.mkdir()
    ticket = folder / "ticket.pt"

    def epoch_end(reporting: Reporting) -> None:
        torch.save({"mask": torch.ones(3)}, ticket)
        reporting.report("flatness", torch.tensor(0.5))
        reporting.report("layers", Table(["layer", "density"], [["a/b", torch.tensor(0.25)], ["Ω, c", None]]))
        reporting.report("spectrum", figure())
        reporting.report("weights", Histogram(torch.tensor([0.0, 1.0, 1.0, 4.0, math.nan]), bins=4))
        reporting.report("ticket", Artifact(ticket, type="ticket", metadata={"density": 0.2, "bound": math.inf}))

    return Reporting(step=lambda r: r.report("norm", 1.5, within_step=True), epoch_end=epoch_end)
