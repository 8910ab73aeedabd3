"""One run of the demo: train, watch, measure."""

from __future__ import annotations

import signal
import statistics
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger
from torch.utils.data import DataLoader, TensorDataset

from thunderstone.demo.digits import Digits
from thunderstone.demo.network import SUBSETS, DigitsNetwork
from thunderstone.demo.results import RADII, Result
from thunderstone.demo.settings import Setting
from thunderstone.demo.sharpness import cross_entropy_of, largest_eigenvalue, loss_rise
from thunderstone.tracking.sink import TrackingWarning

BATCH = 60
OnEpoch = Callable[[int, float], None]


class Watcher(pl.Callback):
    """Keeps the learning curves of a run and the wall-clock time of each of its steps.

    A step is all that lies between Lightning's hooks at the start and the end of a batch: forward, backward, whatever
    a method adds, and the optimizer; not the loading of data, and not validation.

    Args:
        on_epoch: Called after every epoch with how many are done and the accuracy on the test images.
    """

    def __init__(self, on_epoch: OnEpoch) -> None:
        self._on_epoch = on_epoch
        self._started = 0.0
        self.seconds: list[float] = []
        self.curves: dict[str, list[float]] = {name: [] for name in SUBSETS}

    def on_train_batch_start(self, *_: Any) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._started)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, curve in self.curves.items():
            curve.append(float(trainer.callback_metrics[f"accuracy/{name}"]))
        self._on_epoch(len(self.curves["test"]), self.curves["test"][-1])


def train(setting: Setting, seed: int, digits: Digits, epochs: int, folder: Path, on_epoch: OnEpoch) -> Result:
    """Train the network once and measure where it ends. The run is tracked in `folder` with W&B, offline.

    Args:
        setting: What to attach.
        seed: Decides the first weights and the order of the images.
        digits: The data.
        epochs: How many.
        folder: Where the run is tracked.
        on_epoch: See `Watcher`.

    Raises:
        KeyboardInterrupt: The user interrupted the training.
        RequestError: The method is not installed.
    """
    callbacks = setting.callbacks()
    torch.manual_seed(seed)
    module = DigitsNetwork()
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(TensorDataset(digits.images, digits.labels), BATCH, shuffle=True, generator=order)
    subsets = [
        TensorDataset(digits.test_images, digits.test_labels),
        TensorDataset(digits.images[digits.wrong], digits.labels[digits.wrong]),
    ]
    watcher = Watcher(on_epoch)
    logger = _logger(setting, seed, folder)
    try:
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            callbacks=[watcher, *callbacks],
            logger=False if logger is None else logger,
            log_every_n_steps=len(loader),
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        _fit(trainer, module, loader, [DataLoader(subset, batch_size=600) for subset in subsets])
        result = _measured(setting, seed, digits, module, watcher)
        if logger is not None:
            logger.log_metrics(result.final_metrics(), step=trainer.global_step)
        return result
    finally:
        if logger is not None:
            logger.experiment.finish()


def _logger(setting: Setting, seed: int, folder: Path) -> WandbLogger | None:
    """An offline run of W&B, or None with a warning where it cannot be started: the demo goes on without."""
    import wandb

    try:
        # Early and for the whole process: W&B comments on Lightning's arguments before it reads the run's settings.
        wandb.setup(settings=wandb.Settings(silent=True, mode="offline"))
        logger = WandbLogger(
            project="thunderstone-demo",
            name=f"{setting.label}-seed{seed}",
            group=setting.label,
            save_dir=folder,
            offline=True,
            config={"setting": setting.label, "seed": seed},
            settings=wandb.Settings(console="off"),
        )
        logger.experiment  # noqa: B018 - starts the run
    except Exception as error:
        warnings.warn(f"W&B tracks none of this run: {type(error).__name__}: {error}", TrackingWarning, stacklevel=2)
        return None
    return logger


def _fit(trainer: pl.Trainer, module: DigitsNetwork, loader: Any, validation: list[Any]) -> None:
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, loader, validation)
    except SystemExit:
        if trainer.interrupted:
            # Lightning turns Ctrl-C into an exit, and the demo still has a table to show.
            raise KeyboardInterrupt from None
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)


def _measured(setting: Setting, seed: int, digits: Digits, module: DigitsNetwork, watcher: Watcher) -> Result:
    # Single precision: the figures agree with those in double precision to five digits, in a fifth of the time.
    network = deepcopy(module.network).eval()
    eigenvalue = largest_eigenvalue(
        cross_entropy_of(network, digits.images, digits.labels),
        list(network.parameters()),
        torch.Generator().manual_seed(seed),
    )
    rises = loss_rise(network, digits.images, digits.labels, RADII, BATCH)
    return Result(
        setting=setting.label,
        seed=seed,
        test_accuracy=watcher.curves["test"],
        memorised=watcher.curves["memorised"],
        largest_eigenvalue=eigenvalue,
        loss_rises=rises.tolist(),
        # The median: the first steps warm up, and now and then the machine does something else.
        step_seconds=statistics.median(watcher.seconds),
    )
