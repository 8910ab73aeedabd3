"""The examples a running module is measured on: the same ones all through a fit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from thunderstone import ArgumentError
from thunderstone.isolation import RandomState, copy_containers
from thunderstone_sharpness.measures.dotted import load_dotted
from thunderstone_sharpness.measures.errors import MeasureError
from thunderstone_sharpness.measures.evaluation import size_of
from thunderstone_sharpness.measures.stillness import fixed_randomness

_TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class Probe:
    """The first examples of a dataset, in batches.

    They are read by index when training starts, which leaves the training loader and every random state alone. Where
    the training data has no indices (an IterableDataset, several loaders, a loader that is no DataLoader), or where the
    user's own hooks take part in the transfer of a batch and should see each batch once, copies of the first training
    batches are kept as they pass by, of the loader's batch size, and go into checkpoints.

    Args:
        method: Who measures, for messages.
        examples: How many examples.
        batch_size: Examples in a batch; the last one may be smaller.
        dataset: A map-style dataset or sequence, a function that returns one, or ``"package.module:name"`` of either;
            None for the training loader's own. Examples are put together by the training loader's `collate_fn` and go
            through the user's transfer hooks each time they are measured.
    """

    def __init__(self, method: str, examples: int, batch_size: int, dataset: Any = None) -> None:
        self.method, self.examples, self.batch_size, self.dataset = method, examples, batch_size, dataset
        self._batches: list[Any] = []
        self._passed = 0
        self._in_passing = False

    def open(self, trainer: Trainer) -> None:
        """Read the examples. Call on every rank when training starts.

        Raises:
            ArgumentError: `dataset` is no map-style dataset, or there are no examples.
            MeasureError: The dataset cannot be read by index.
        """
        resumed = self._batches if self._in_passing else []
        self._batches = []
        loader: Any = trainer.train_dataloader
        dataset: Any = self._given() if self.dataset is not None else getattr(loader, "dataset", None)
        indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        readable = isinstance(loader, DataLoader) and indexed and not isinstance(dataset, IterableDataset)
        if self.dataset is None and (not readable or _has_transfer_hooks(trainer)):
            self._in_passing, self._batches = True, resumed
            return
        self._in_passing, self._passed = False, 0
        if not indexed or not len(dataset):
            reason = "it holds no examples" if indexed else "it has no __getitem__ and __len__"
            shown = self.dataset if self.dataset is not None else type(dataset).__name__
            raise ArgumentError(self.method, "dataset", shown, reason, "pass a map-style dataset that is not empty")
        collate = getattr(loader, "collate_fn", default_collate)
        whole = self.dataset is None and loader.batch_sampler is None and loader.batch_size is None
        with _undisturbed(dataset, trainer.strategy.root_device):
            self._batches = self._read(dataset, collate, whole)

    @property
    def complete(self) -> bool:
        """Whether the examples will stay the ones they are."""
        return bool(self._batches) and (not self._in_passing or self._passed >= self.examples)

    def seal(self) -> None:
        """An epoch is over: all the data has passed by, however little it was."""
        if self._in_passing and self._batches:
            self._passed = max(self._passed, self.examples)

    def offer(self, batch: Any) -> None:
        """A training batch passes by, on the device and before the module sees it."""
        if self._in_passing and self._passed < self.examples:
            self._batches.append(apply_to_collection(copy_containers(batch), Tensor, _kept))
            self._passed += size_of(batch)

    def state_dict(self) -> dict[str, Any]:
        """What has passed by, for a checkpoint; empty where examples are read by index, or hold unusual objects."""
        if not self._in_passing or not _is_storable(self._batches):
            return {}
        return {"batches": list(self._batches), "passed": self._passed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what passed by before a checkpoint; call before `open`."""
        if state:
            self._in_passing = True
            self._batches, self._passed = list(state["batches"]), state["passed"]

    def close(self) -> None:
        """Forget the examples."""
        self._batches, self._passed, self._in_passing = [], 0, False

    def batches(self, trainer: Trainer, module: LightningModule) -> list[Any]:
        """The batches as `training_step` would get them: transferred, through the module's transfer hooks, in the
        run's input precision.

        Raises:
            MeasureError: No batch has passed by yet.
        """
        if not self._batches:
            hint = "measure after the first training batch, or pass dataset=..."
            raise MeasureError(self.method, "no training batch has passed by yet", hint)
        return [self._transferred(trainer, module, batch) for batch in self._batches]

    def _transferred(self, trainer: Trainer, module: LightningModule, batch: Any) -> Any:
        batch = trainer.precision_plugin.convert_input(copy_containers(batch))
        # What passed by has gone through the hooks already; without any of the user's there is nothing but the move.
        if self._in_passing or not _has_transfer_hooks(trainer):
            return move_data_to_device(batch, trainer.strategy.root_device)
        data = getattr(trainer, "datamodule", None)
        owner = data if data is not None and is_overridden("on_before_batch_transfer", data) else module
        batch = owner.on_before_batch_transfer(batch, 0)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def _given(self) -> Any:
        dataset = self.dataset
        if isinstance(dataset, str):
            dataset = load_dotted(self.method, "dataset", dataset)
        if callable(dataset) and not hasattr(dataset, "__getitem__"):
            dataset = dataset()
        return dataset

    def _read(self, dataset: Any, collate: Callable[[Any], Any], whole: bool) -> list[Any]:
        index = 0
        try:
            if whole:
                # batch_size=None: each item of the dataset is a batch already.
                batches: list[Any] = []
                examples = 0
                while index < len(dataset) and examples < self.examples:
                    batches.append(collate(dataset[index]))
                    examples += size_of(batches[-1])
                    index += 1
                return batches
            items = []
            for index in range(min(self.examples, len(dataset))):
                items.append(dataset[index])
            return [collate(items[i : i + self.batch_size]) for i in range(0, len(items), self.batch_size)]
        except Exception as error:
            problem = f"the dataset could not be read at index {index}: {type(error).__name__}: {error}"
            hint = "pass dataset=... with a map-style dataset that is read as dataset[0], dataset[1], …"
            raise MeasureError(self.method, problem, hint) from error


def _is_storable(value: Any) -> bool:
    if type(value) is dict:
        return all(isinstance(key, (str, int)) and _is_storable(inner) for key, inner in value.items())
    if type(value) in (list, tuple):
        return all(_is_storable(inner) for inner in value)
    return isinstance(value, (Tensor, bool, int, float, str, bytes, type(None)))


def share_buffers(trainer: Trainer, module: LightningModule) -> None:
    """Give every process rank zero's running statistics, which is what a checkpoint holds: all measure one module.

    To be called on every process, inside `unchanged`, which gives each its own back.
    """
    if trainer.world_size > 1:
        buffers = list(module.buffers())
        values = trainer.strategy.broadcast([buffer.detach().cpu() for buffer in buffers])
        with torch.no_grad():
            for buffer, value in zip(buffers, values, strict=True):
                buffer.copy_(value)


def _has_transfer_hooks(trainer: Trainer) -> bool:
    owners = (trainer.lightning_module, getattr(trainer, "datamodule", None))
    return any(is_overridden(hook, owner) for owner in owners if owner is not None for hook in _TRANSFER_HOOKS)


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


@contextmanager
def _undisturbed(dataset: Any, device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, the global random states and generators the dataset holds are as before."""
    before = RandomState(device)
    undo = list(_generators(dataset, 5, set()))
    try:
        # A resumed run reads the same examples, however they are augmented.
        fixed_randomness(device)
        yield
    finally:
        for restore in undo:
            restore()
        before.restore()


def _generators(value: Any, depth: int, seen: set[int]) -> Iterator[Callable[[], object]]:
    """How to put every generator back that `value` holds, directly or in its transforms and wrapped datasets."""
    if depth < 0 or id(value) in seen or isinstance(value, (str, bytes, int, float, Tensor, np.ndarray, type)):
        return
    seen.add(id(value))
    if isinstance(value, torch.Generator):
        yield _restore_torch(value)
    elif isinstance(value, np.random.Generator):
        yield _restore_bits(value)
    elif isinstance(value, np.random.RandomState):
        yield _restore_numpy(value)
    elif isinstance(value, random.Random):
        yield _restore_python(value)
    elif isinstance(value, (list, tuple, dict)):
        inner = list(value.values()) if isinstance(value, dict) else value
        # A long list is data.
        for item in inner if len(inner) <= 64 else ():
            yield from _generators(item, depth - 1, seen)
    elif hasattr(value, "__dict__"):
        for item in list(vars(value).values()):
            yield from _generators(item, depth - 1, seen)


def _restore_torch(generator: torch.Generator) -> Callable[[], object]:
    state = generator.get_state()
    return lambda: generator.set_state(state)


def _restore_bits(generator: np.random.Generator) -> Callable[[], object]:
    state = generator.bit_generator.state
    return lambda: setattr(generator.bit_generator, "state", state)


def _restore_numpy(generator: np.random.RandomState) -> Callable[[], object]:
    state = generator.get_state()
    return lambda: generator.set_state(state)


def _restore_python(generator: random.Random) -> Callable[[], object]:
    state = generator.getstate()
    return lambda: generator.setstate(state)
