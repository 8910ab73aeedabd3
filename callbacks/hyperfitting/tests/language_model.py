"""A tiny language model as users write them, its data, and a quiet way to train it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

VOCABULARY, LENGTH, WIDTH = 13, 12, 16


class Texts(Dataset[dict[str, Tensor]]):
    """Random token sequences, each the same whenever it is read."""

    def __init__(self, count: int, seed: int = 0, length: int = LENGTH) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(1, VOCABULARY, (count, length), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[index]}


class LanguageModel(LightningModule):
    """A recurrent network with dropout, AdamW with weight decay, and a schedule; knows of no method.

    Args:
        schedule: ``"step"``, ``"warmup"``, ``"plateau"``, ``"one_cycle"``, ``"by_hand"`` or None.
        dtype: float64 for comparisons with a reference.
    """

    def __init__(self, schedule: str | None = "step", dtype: torch.dtype = torch.float32, lr: float = 0.01) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH, dtype=dtype)
        self.recurrent = nn.GRU(WIDTH, WIDTH, batch_first=True, dtype=dtype)
        self.dropout = nn.Dropout(0.4)
        self.head = nn.Linear(WIDTH, VOCABULARY, dtype=dtype)
        self.schedule, self.rate = schedule, lr
        self.rates: list[float] = []

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embedding(ids))
        return self.head(self.dropout(states))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        ids = batch["input_ids"]
        return nn.functional.cross_entropy(self(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self.log("val_loss", self.loss(batch))

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if self.schedule == "by_hand":
            for group in optimizer.param_groups:
                group["lr"] = self.rate * min(1.0, (self.trainer.global_step + 1) / 10)
        optimizer.step(optimizer_closure)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append(float(optimizer.param_groups[0]["lr"]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.rate, weight_decay=0.3)
        schedules = torch.optim.lr_scheduler
        if self.schedule == "step":
            return [optimizer], [schedules.StepLR(optimizer, 1, gamma=0.1)]
        if self.schedule == "warmup":
            scheduler: Any = schedules.LambdaLR(optimizer, lambda step: min(1.0, step / 5))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        if self.schedule == "plateau":
            scheduler = schedules.ReduceLROnPlateau(optimizer, patience=0, factor=0.1)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}
        if self.schedule == "one_cycle":
            scheduler = schedules.OneCycleLR(optimizer, 0.1, total_steps=self.trainer.estimated_stepping_batches)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        return optimizer


def texts_loader(count: int = 20, batch_size: int = 3, shuffle: bool = False, seed: int = 0) -> DataLoader[Any]:
    return DataLoader(Texts(count, seed), batch_size=batch_size, shuffle=shuffle)


def trainer(*callbacks: Callback, **settings: Any) -> Trainer:
    arguments: dict[str, Any] = {"max_epochs": 5, "logger": False, "enable_checkpointing": False} | settings
    return Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


def fit(
    callbacks: Sequence[Callback] | Callback,
    module: LanguageModel | None = None,
    loader: Any = None,
    validation: Any = None,
    **settings: Any,
) -> tuple[LanguageModel, Trainer]:
    checkpoint = settings.pop("ckpt_path", None)
    module = module or LanguageModel()
    running = trainer(*([callbacks] if isinstance(callbacks, Callback) else callbacks), **settings)
    running.fit(module, texts_loader() if loader is None else loader, validation, ckpt_path=checkpoint)
    return module, running
