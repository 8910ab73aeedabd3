"""A small training program with everything that makes resuming hard, described by a JSON-able `Setting`.

Run as a script, ``python resumable_program.py SETTING.json OUT``, it trains and writes down how the run
ended; with ``kill_at`` it dies at that batch.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchmetrics
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, WeightedRandomSampler, get_worker_info

from thunderstone.resume import ExactResume


@dataclass(frozen=True)
class Setting:
    """One training run.

    Attributes:
        loader: ``"plain"``, ``"stateful"``, ``"iterable"``, ``"sized_iterable"``, ``"stateful_iterable"``,
            ``"combined"``, ``"cycled"``, ``"weighted"``, ``"counting_sampler"``, ``"generator"`` or ``"batches"``.
        augment: Which random sources a sample is perturbed from: any of ``torch``, ``numpy``, ``python``, ``own``.
        save: Where `SaveAt` writes ``saved.ckpt``, as hook and number of the call (from 1); None to rely on
            `checkpoint`.
        checkpoint: Arguments of a ModelCheckpoint.
        kill_at: The batch (counted over all epochs, from 0) at whose beginning the run dies.
        kill_in: ``"signal"`` for SIGKILL, ``"exception"`` to raise `Killed`.
        extra: More arguments of the Trainer.
    """

    loader: str = "plain"
    workers: int = 0
    persistent: bool = False
    shuffle: bool = True
    augment: tuple[str, ...] = ()
    dropout: float = 0.2
    samples: int = 28
    batch_size: int = 4
    epochs: int = 3
    max_steps: int = -1
    accumulate: int = 1
    validation: bool = True
    val_check_interval: float | int = 1.0
    scheduler: str = "step"
    reload_every: int = 0
    limit_train_batches: int | float = 1.0
    manual: bool = False
    stop_early: bool = False
    save: tuple[str, int] | None = None
    checkpoint: dict[str, Any] | None = None
    kill_at: int | None = None
    kill_in: str = "exception"
    devices: int = 1
    exact: bool = True
    reload_consumed: bool = True
    resume_from: str | None = None
    folder: str = ""
    seed: int = 7
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Setting:
        """The inverse of `to_json`."""
        values = json.loads(text)
        for name in ("augment", "save"):
            values[name] = tuple(values[name]) if values[name] is not None else None
        return cls(**values)

    def to_json(self) -> str:
        """For a program's command line."""
        return json.dumps(asdict(self))


class Killed(BaseException):
    """Stands for a death in the middle of a run, where starting a process would take too long."""


def perturb(x: Tensor, sources: tuple[str, ...], own: np.random.Generator) -> Tensor:
    """Add noise from every source."""
    if "torch" in sources:
        x = x + 0.1 * torch.randn(())
    if "numpy" in sources:
        x = x + 0.1 * float(np.random.randn())
    if "python" in sources:
        x = x + 0.1 * random.gauss(0, 1)
    if "own" in sources:
        x = x + 0.1 * float(own.normal())
    return x


class Samples(Dataset[Any]):
    """Numbered samples with augmentation."""

    def __init__(self, size: int, augment: tuple[str, ...]) -> None:
        source = torch.Generator().manual_seed(3)
        self.x = torch.randn(size, 4, generator=source)
        self.y = (self.x.sum(1) > 0).long()
        self.augment = augment
        self.own = np.random.default_rng(11)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        return perturb(self.x[index], self.augment, self.own), self.y[index], index


class Stream(IterableDataset[Any]):
    """The same samples as a stream, shuffled by a generator of its own, each worker a part."""

    def __init__(self, size: int, augment: tuple[str, ...], sized: bool = False) -> None:
        self.samples, self.sized, self.rounds = Samples(size, augment), sized, 0
        self.order = random.Random(5)

    def __iter__(self) -> Any:
        indices = list(range(len(self.samples)))
        self.order.shuffle(indices)
        worker = get_worker_info()
        if worker is not None:
            indices = indices[worker.id :: worker.num_workers]
        for index in indices:
            yield self.samples[index]


class SizedStream(Stream):
    """A stream that says how long it is."""

    def __len__(self) -> int:
        return len(self.samples)


class StatefulStream(Stream):
    """A stream that can be told where to go on."""

    position = 0

    def __iter__(self) -> Any:
        begin, self.position = self.position, 0
        worker = get_worker_info()
        share = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        for number, index in enumerate(range(share[0], len(self.samples), share[1])):
            if number < begin:
                continue
            self.position = number + 1
            yield self.samples[index]
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class CountingSampler(Sampler[int]):
    """Shuffles by the number of times it was iterated over."""

    def __init__(self, size: int) -> None:
        self.size, self.round = size, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Any:
        self.round += 1
        return iter(torch.randperm(self.size, generator=torch.Generator().manual_seed(self.round)).tolist())


class Batches:
    """A loader that is no DataLoader: any iterable will do for Lightning."""

    def __init__(self, data: Samples, batch_size: int) -> None:
        self.data, self.batch_size = data, batch_size

    def __iter__(self) -> Any:
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(4))
        for ids in order.split(self.batch_size):
            yield self.data.x[ids], self.data.y[ids], ids


def training_loader(setting: Setting) -> Any:
    """The loader a setting names."""
    size, workers = setting.samples, setting.workers
    common: dict[str, Any] = {
        "batch_size": setting.batch_size,
        "num_workers": workers,
        "persistent_workers": setting.persistent and workers > 0,
        "multiprocessing_context": "fork" if workers > 0 else None,
    }
    data = Samples(size, setting.augment)
    kind = setting.loader
    if kind == "plain":
        return DataLoader(data, shuffle=setting.shuffle, **common)
    if kind == "stateful":
        from torchdata.stateful_dataloader import StatefulDataLoader

        return StatefulDataLoader(data, shuffle=setting.shuffle, **common)
    if kind == "stateful_iterable":
        from torchdata.stateful_dataloader import StatefulDataLoader

        return StatefulDataLoader(StatefulStream(size, setting.augment), **common)
    if kind == "iterable":
        return DataLoader(Stream(size, setting.augment), **common)
    if kind == "sized_iterable":
        return DataLoader(SizedStream(size, setting.augment), **common)
    if kind == "weighted":
        sampler = WeightedRandomSampler(torch.linspace(0.1, 1, size), size)
        return DataLoader(data, sampler=sampler, **common)
    if kind == "counting_sampler":
        return DataLoader(data, sampler=CountingSampler(size), **common)
    if kind == "generator":
        return DataLoader(data, shuffle=True, generator=torch.Generator().manual_seed(2), **common)
    if kind == "batches":
        return Batches(data, setting.batch_size)
    short = DataLoader(Samples(size // 2 + 1, setting.augment), shuffle=True, **common)
    mode = "max_size_cycle" if kind == "cycled" else "min_size"
    return CombinedLoader({"a": DataLoader(data, shuffle=True, **common), "b": short}, mode)


class Model(LightningModule):
    """A net with dropout and a normalisation layer that logs in every style."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting
        self.automatic_optimization = not setting.manual
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(setting.dropout), nn.Linear(8, 2)
        )
        self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=2)
        kind: dict[str, Any] = {"task": "multiclass", "num_classes": 2, "average": "macro"}
        self.curves = torchmetrics.MetricCollection([torchmetrics.Precision(**kind), torchmetrics.Recall(**kind)])
        self.register_buffer("average", torch.zeros(8, 4))
        self.seen: list[tuple[int, list[int], float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        parts = list(batch.values()) if isinstance(batch, dict) else [batch]
        loss = torch.zeros(())
        for x, y, ids in parts:
            self.seen.append((self.trainer.fit_loop.total_batch_idx, torch.as_tensor(ids).tolist(), float(x.sum())))
            scores = self.net(x + 0.01 * torch.randn_like(x))
            loss = loss + nn.functional.cross_entropy(scores, y)
            self.accuracy(scores, y)
            self.curves.update(scores, y)
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=len(ids))
        self.log("most", loss.detach(), reduce_fx="max", on_step=False, on_epoch=True)
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        if self.setting.manual:
            optimizer = self.optimizers()
            self.manual_backward(loss / 2)
            if (batch_idx + 1) % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.average.lerp_(self.net[0].weight.detach(), 0.1 + float(outputs["loss"]) * 0.01)

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.curves.compute())
        self.curves.reset()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y, _ = batch
        # Draws random numbers, so that a validation left out or done twice shows.
        loss = nn.functional.cross_entropy(self.net(x + 0.05 * torch.randn_like(x)), y)
        self.log("val_loss", loss)

    def on_validation_end(self) -> None:
        self.average.mul_(1 - 0.01 * random.random())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        if self.setting.scheduler == "plateau":
            scheduler: Any = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.7, patience=0)
            monitor = "val_loss" if self.setting.validation else "loss_epoch"
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}
        interval = "epoch" if self.setting.scheduler == "epoch" else "step"
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}

    def train_dataloader(self) -> Any:
        return training_loader(self.setting)

    def val_dataloader(self) -> Any:
        return DataLoader(Samples(8, ()), batch_size=4)


class Memory(Logger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.lines.append((int(step or 0), dict(metrics)))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """There are none."""


class SaveAt(Callback):
    """Writes a checkpoint in the n-th call of a hook."""

    def __init__(self, hook: str, number: int, path: Path) -> None:
        self.number, self.path, self.calls = number, path, 0
        setattr(self, hook, self._count)

    def _count(self, trainer: Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.calls += 1
            if self.calls == self.number:
                trainer.save_checkpoint(self.path)


class KillAt(Callback):
    """Ends the run at the beginning of a batch."""

    def __init__(self, batch: int, how: str) -> None:
        self.batch, self.how = batch, how

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            if self.how == "signal":
                os.kill(os.getpid(), signal.SIGKILL)
            raise Killed


def callbacks_of(setting: Setting) -> list[Callback]:
    """The callbacks a setting asks for."""
    callbacks: list[Callback] = []
    if setting.exact:
        callbacks.append(ExactResume(reload_consumed=setting.reload_consumed))
    if setting.stop_early:
        callbacks.append(EarlyStopping("val_loss", patience=1, mode="max"))
    if setting.save is not None:
        callbacks.append(SaveAt(*setting.save, Path(setting.folder) / "saved.ckpt"))
    if setting.checkpoint is not None:
        callbacks.append(ModelCheckpoint(dirpath=setting.folder, **setting.checkpoint))
    if setting.kill_at is not None:
        callbacks.append(KillAt(setting.kill_at, setting.kill_in))
    return callbacks


def make(setting: Setting) -> tuple[Trainer, Model]:
    """A seeded Trainer and model."""
    seed_everything(setting.seed, verbose=False)
    model = Model(setting)
    trainer = Trainer(
        max_epochs=setting.epochs,
        max_steps=setting.max_steps,
        accelerator="cpu",
        devices=setting.devices,
        strategy="ddp" if setting.devices > 1 else "auto",
        accumulate_grad_batches=setting.accumulate,
        val_check_interval=setting.val_check_interval,
        limit_train_batches=setting.limit_train_batches,
        limit_val_batches=1.0 if setting.validation else 0,
        reload_dataloaders_every_n_epochs=setting.reload_every,
        log_every_n_steps=1,
        logger=Memory(),
        callbacks=callbacks_of(setting),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=setting.checkpoint is not None,
        default_root_dir=setting.folder or None,
        **setting.extra,
    )
    return trainer, model


def outcome(trainer: Trainer, model: Model) -> dict[str, Any]:
    """Everything that must be the same at the end, as tensors and primitives."""
    scheduler = trainer.lr_scheduler_configs[0].scheduler.state_dict()
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "optimizer": trainer.optimizers[0].state_dict()["state"],
        "scheduler": {key: value for key, value in scheduler.items() if key != "_last_lr"},
        "torch": torch.get_rng_state(),
        "numpy": [*np.random.get_state()[1].tolist(), int(np.random.get_state()[2])],
        "python": list(random.getstate()[1]),
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "progress": [trainer.global_step, trainer.current_epoch, trainer.fit_loop.epoch_loop._batches_that_stepped],
        "seen": model.seen,
        "logged": trainer.logger.lines,
    }


def main(setting_path: str, out: str) -> None:
    """Train as a process of its own."""
    setting = Setting.from_json(Path(setting_path).read_text())
    trainer, model = make(setting)
    trainer.fit(model, ckpt_path=setting.resume_from)
    torch.save(outcome(trainer, model), f"{out}.{trainer.global_rank}")


if __name__ == "__main__":
    main(*sys.argv[1:])
