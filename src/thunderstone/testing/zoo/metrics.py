"""A module that measures and logs in every way Lightning offers."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection, SumMetric
from torchmetrics.classification import MulticlassAccuracy

from thunderstone.testing.zoo.data import CLASSES, FEATURES


class Metrics(LightningModule):
    """torchmetrics objects and collections; `self.log`, `self.log_dict`, and the logger called directly."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, CLASSES))
        self.accuracy = MulticlassAccuracy(num_classes=CLASSES, average="micro")
        self.samples = SumMetric()
        self.collection = MetricCollection({"mean_loss": MeanMetric()})

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, labels = batch
        logits = self.net(inputs)
        loss = nn.functional.cross_entropy(logits, labels)
        self.accuracy(logits.softmax(dim=1), labels)
        self.samples.update(float(len(labels)))
        self.collection.update(loss.detach())
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log("samples", self.samples, on_step=False, on_epoch=True)
        # Summed over an epoch: doubles when a step is gone through twice.
        self.log_dict({"batches": 1.0, "rows": float(len(labels))}, on_step=False, on_epoch=True, reduce_fx="sum")
        if self.logger is not None:
            self.logger.log_metrics({"direct": float(batch_idx)}, step=self.global_step)
            experiment: Any = getattr(self.logger, "experiment", None)
            if hasattr(experiment, "write"):
                experiment.write("experiment", float(batch_idx))
        return loss

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.collection.compute())
        self.collection.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)
