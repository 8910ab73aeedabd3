"""Going over the training data once more, as if it had not been."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from thunderstone.attachment.data_view import IndexRecord
from thunderstone.attachment.window import copy_containers
from thunderstone.errors import StepError, UnsupportedSettingError
from thunderstone.lightning_private import another_combined_loader, train_loader
from thunderstone.random_state import RandomState
from thunderstone.resume.loader_random_state import LoaderRandomState, holders

_TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


@dataclass(frozen=True)
class DrawnBatch:
    """A batch of a further pass.

    Attributes:
        batch: As `training_step` gets it: on the device, through the user's transfer hooks.
        number: Its place in the pass, from 0.
        indices: Position in the dataset of every sample, int64 (batch size,), where some method has the training
            loader's indices tracked; else None.
    """

    batch: Any
    number: int
    indices: Tensor | None


@contextmanager
def training_pass(
    method: str, trainer: Trainer, module: LightningModule, occasion: int = 0
) -> Iterator[Iterator[DrawnBatch]]:
    """The batches of a further pass over the training data; training itself goes on as if there had been none.

    As many batches as an epoch of training has (`limit_train_batches` included), drawn by the training loader's own
    sampler: shuffled where it shuffles, each replica its own share. Iterators, workers and samplers are separate ones.
    Every batch begins from a seed of its own, made of torch's initial seed, the rank, `occasion` and its number: what
    is drawn while the caller works on it differs from batch to batch, and a pass is repeatable. At the end (or after
    an exception) random states, generators that loader and dataset hold, and the attributes of the dataset are what
    they were. The module is not looked after: see `ModuleState` and `silenced`.

    Args:
        method: Who asks, for messages.
        trainer: The running Trainer, its training loader set up.
        module: The LightningModule.
        occasion: Tells the passes of a run apart, e.g. the epoch or the step.

    Yields:
        An iterator of `DrawnBatch`.

    Raises:
        StepError: There is no training loader yet.
        UnsupportedSettingError: The data can be iterated over only once.
    """
    combined = train_loader(trainer)
    if combined is None:
        raise StepError(f"{method}: there is no training loader yet. HINT: ask from on_train_start on")
    seeds = random.Random(f"{torch.initial_seed()} {trainer.global_rank} {occasion}")
    with ExitStack() as undo:
        # The stack runs from its end: generators last, after everything that may draw.
        undo.callback(RandomState(trainer.strategy.root_device).restore)
        for loader in combined.flattened:
            undo.callback(_restorer(loader))
            _require_reiterable(method, loader)
        _seed(seeds.getrandbits(32), trainer.strategy.root_device)
        twins, records = zip(*(_twin(loader) for loader in combined.flattened), strict=True)
        another = another_combined_loader(combined, list(twins))
        undo.callback(another.reset)
        yield _drawn(trainer, module, iter(another), records[0] if len(records) == 1 else None, seeds)


def _drawn(
    trainer: Trainer, module: LightningModule, batches: Iterator[Any], record: IndexRecord | None, seeds: random.Random
) -> Iterator[DrawnBatch]:
    number = 0
    while number < trainer.num_training_batches:
        try:
            batch = next(batches)[0]
        except StopIteration:
            return
        indices = None if record is None else torch.as_tensor(record.entries[number], dtype=torch.int64).reshape(-1)
        _seed(seeds.getrandbits(32), trainer.strategy.root_device)
        yield DrawnBatch(_transferred(trainer, module, batch), number, indices)
        number += 1


def _twin(loader: Any) -> tuple[Any, IndexRecord | None]:
    """A loader over the same data whose iterators are its own, and the record of its indices where one is kept."""
    if not isinstance(loader, DataLoader):
        return loader, None
    twin = copy.copy(loader)
    # DataLoader forbids assigning these to a loader that may be running; this one has never been iterated over.
    attributes = vars(twin)
    attributes.update(_iterator=None, persistent_workers=False)
    if "next_iter_state" in attributes:
        attributes["next_iter_state"] = None
    for name in ("batch_sampler", "sampler"):
        if isinstance(attributes.get(name), IndexRecord):
            attributes[name] = IndexRecord(attributes[name]._sampler)
            return twin, attributes[name]
    return twin, None


def _require_reiterable(method: str, loader: Any) -> None:
    """Refuse a stream whose iterator is the one that training is reading from."""
    source = loader
    if isinstance(loader, DataLoader):
        # Workers hold a dataset of their own.
        if not isinstance(loader.dataset, IterableDataset) or loader.num_workers > 0:
            return
        source = loader.dataset
    attributes = dict(getattr(source, "__dict__", {}))
    once = iter(source) is iter(source)
    # What asking for an iterator reset, e.g. a position.
    if attributes:
        vars(source).update(attributes)
    if once:
        raise UnsupportedSettingError(
            method,
            f"a training stream that can be read only once ({type(source).__name__})",
            "a further pass over the data would take batches away from training, or begin it anew",
            "let __iter__ return a new iterator each time (make it a generator function)",
        )


def _restorer(loader: Any) -> Callable[[], None]:
    """How to put back the generators that a loader holds, and what its parts keep in attributes."""
    state = LoaderRandomState(loader)
    kept = [(vars(part), dict(vars(part))) for part in _parts(loader) if hasattr(part, "__dict__")]

    def restore() -> None:
        for attributes, before in kept:
            attributes.clear()
            attributes.update(before)
        state.restore(loader)

    return restore


def _parts(loader: Any) -> list[Any]:
    # A function's attributes are not a position, and a class's cannot be assigned that way.
    return [part for part in holders(loader).values() if not isinstance(part, type) and not callable(part)]


def _transferred(trainer: Trainer, module: LightningModule, batch: Any) -> Any:
    batch = trainer.precision_plugin.convert_input(copy_containers(batch))
    data = getattr(trainer, "datamodule", None)
    owners = [owner for owner in (module, data) if owner is not None]
    if not any(is_overridden(hook, owner) for owner in owners for hook in _TRANSFER_HOOKS):
        # Not through Lightning's own hooks, which whoever counts calls would see.
        return move_data_to_device(batch, trainer.strategy.root_device)
    owner = data if data is not None and is_overridden("on_before_batch_transfer", data) else module
    return trainer.strategy.batch_to_device(owner.on_before_batch_transfer(batch, 0), dataloader_idx=0)


def _seed(value: int, device: torch.device) -> None:
    random.seed(value)
    np.random.seed(value)
    # Not torch.manual_seed, which seeds the devices of other processes' models too.
    torch.default_generator.manual_seed(value)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(value)
