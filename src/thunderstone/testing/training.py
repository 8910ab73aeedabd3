"""One seeded training run of a module of the zoo, and what it ends with."""

from __future__ import annotations

import logging
import os
import random
import signal
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from thunderstone.random_state import RandomState
from thunderstone.testing.leftovers import process_state
from thunderstone.testing.memory_logger import Entry, MemoryLogger
from thunderstone.testing.observer import CallbackEvents, Observer, counted
from thunderstone.testing.settings import PLAIN, Setting
from thunderstone.testing.zoo import Case
from thunderstone.tracking.figures import drawn_once

EPOCHS = 2
SEED = 20250101
# What a shell may have set, and what would decide how a Trainer is built.
_FOREIGN = ("THUNDERSTONE_WITH", "PL_TRAINER_")
_PICTURES: dict[str, bytes] = {}
_LIGHTNING_LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning")


def seed(value: int = SEED) -> None:
    """Seed every global generator. Not Lightning's `seed_everything`: that leaves environment variables behind."""
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


@contextmanager
def apart() -> Iterator[None]:
    """A block whose runs neither see the caller's process state nor change it.

    One thread (a reduction adds in one order), Lightning's messages off, one picture for all figures of a name, no
    variable that attaches methods or sets a Trainer's arguments, and random state, signal handler and working folder's
    contents as before.
    """
    random_state, threads = RandomState(), torch.get_num_threads()
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    foreign = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_FOREIGN)}
    levels = {name: logging.getLogger(name).level for name in _LIGHTNING_LOGGERS}
    torch.set_num_threads(1)
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), drawn_once(_PICTURES):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        os.environ.update(foreign)
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
        torch.set_num_threads(threads)
        random_state.restore()


@dataclass
class Run:
    """A finished (or failed) run.

    Attributes:
        trainer: The Trainer.
        module: The module as it came out.
        observer: What the callback behind all others saw.
        entries: Calls of the logger.
        state: Weights, optimizer, schedulers, random state and progress at the end; nested.
        callbacks_before: ``trainer.callbacks`` before `fit`.
        process_before: What a run may patch or set in the process, before it; see `leftovers.process_state`.
        process_after: The same after it.
        error: What `fit` raised, if the caller expected something to be raised.
    """

    trainer: Any
    module: LightningModule
    observer: Observer
    entries: list[Entry]
    state: dict[str, Any] = field(default_factory=dict)
    callbacks_before: list[Callback] = field(default_factory=list)
    process_before: dict[str, Any] = field(default_factory=dict)
    process_after: dict[str, Any] = field(default_factory=dict)
    error: BaseException | None = None

    @property
    def counts(self) -> Counter[str]:
        """Events by name."""
        return self.observer.counts


def train(
    case: Case,
    callbacks: Sequence[Callback],
    setting: Setting = PLAIN,
    *,
    prepare: Callable[[LightningModule], None] | None = None,
    expect: tuple[type[BaseException], ...] = (),
    events: bool = True,
) -> Run:
    """Fit a module of the zoo from its seed; the same arguments give the same bits.

    Args:
        case: The module and its data.
        callbacks: What to attach, e.g. a method.
        setting: How the Trainer is set.
        prepare: Called with the module before `fit`.
        expect: Exceptions that may come out of `fit`; kept in `Run.error`.
        events: Count the calls of hooks.
    """
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="thunderstone-") as folder, _in_folder(folder):
        seed()
        module = case.module()
        if events:
            counted(module, counts)
        if prepare is not None:
            prepare(module)
        logger, observer = MemoryLogger(), Observer(counts)
        trainer = make_trainer(
            folder,
            [*callbacks, *([CallbackEvents(counts)] if events else []), observer],
            **{"logger": logger, **setting.arguments()},
        )
        run = Run(trainer, module, observer, logger.entries, callbacks_before=list(trainer.callbacks))
        fitted: Any = _compiled(module) if setting.compiled else module
        run.process_before = process_state()
        seed(SEED + 1)
        try:
            trainer.fit(fitted, case.loader(), case.validation() if case.validation is not None else None)
        except expect as error:
            run.error = error
        run.process_after = process_state()
        run.state = final_state(trainer, module)
    return run


def _compiled(module: LightningModule) -> Any:
    # Lightning's `log` inspects signatures, which dynamo cannot trace: kept out of the graph, as users do.
    out_of_graph: Any = torch.compiler.disable
    vars(module)["log"] = out_of_graph(module.log)
    return torch.compile(module, backend="eager")


def make_trainer(folder: str, callbacks: Sequence[Callback], **arguments: Any) -> Any:
    """A quiet Trainer on the CPU that writes into a folder."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": EPOCHS,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **arguments,
    }
    # Named, so that a cluster the kit happens to run on is not taken for the run's own.
    settings["plugins"] = [LightningEnvironment(), *settings.get("plugins", ())]
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **settings)


def final_state(trainer: Any, module: LightningModule) -> dict[str, Any]:
    """Everything two equal runs agree on: weights and buffers, optimizers, schedulers, random state, progress."""
    loop = trainer.fit_loop.epoch_loop
    return {
        "weights": {name: value.detach().clone() for name, value in module.state_dict().items()},
        "optimizer": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "scheduler": [_primitives(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs],
        "random": RandomState().state_dict(),
        "progress": {
            "global_step": trainer.global_step,
            "current_epoch": trainer.current_epoch,
            "batches": loop.batch_progress.total.completed,
            "batches in the epoch": loop.batch_progress.current.completed,
        },
    }


def _primitives(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if isinstance(value, (bool, int, float, str, list, type(None)))}


@contextmanager
def _in_folder(folder: str) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            os.chdir(before)
