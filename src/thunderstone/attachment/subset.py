"""A few of a dataset's samples instead of all, drawn in the way a loader's own sampler draws."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from thunderstone.errors import UnsupportedSettingError


def chosen_samples(population: Sequence[int], count: int, seed: int) -> list[int]:
    """`count` of the indices in `population` (all of them where there are no more), ascending, the same for a seed."""
    return sorted(random.Random(seed).sample(population, min(count, len(population))))


class SubsetSampler:
    """Yields the chosen indices at the positions another sampler draws; everything else is that sampler's own.

    Args:
        sampler: Draws positions, 0 to ``len(chosen) - 1``.
        chosen: The index in the dataset that stands at each position.
    """

    def __init__(self, sampler: Any, chosen: Sequence[int]) -> None:
        self._sampler = sampler
        self._chosen = chosen
        # No number: numbers of a sampler are its place in the data, which an exact resume writes down and restores.
        self.begun: list[bool] = []

    def __iter__(self) -> Iterator[int]:
        self.begun[:] = [True]
        return _Chosen(iter(self._sampler), self._chosen)

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        # `set_epoch` among others: who looks for it must find it where there is one, and only there.
        if name in ("_sampler", "_chosen"):
            raise AttributeError(name)
        return getattr(self._sampler, name)


class _Chosen:
    """An iterator of positions, read as the indices that stand there; its state, where it has one, is its own."""

    def __init__(self, positions: Iterator[int], chosen: Sequence[int]) -> None:
        self._positions = positions
        self._chosen = chosen

    def __iter__(self) -> _Chosen:
        return self

    def __next__(self) -> int:
        return self._chosen[next(self._positions)]

    def __getattr__(self, name: str) -> Any:
        if name in ("_positions", "_chosen"):
            raise AttributeError(name)
        return getattr(self._positions, name)


class Subset:
    """Lets a training loader draw from a fixed, seeded choice of its samples. The dataset itself is not touched.

    The sampler is replaced by one of the same kind over the chosen samples alone: shuffled with the same generator,
    split among the same replicas. An epoch is as many batches as the choice gives.

    Args:
        method: Who asks, for messages.
        loader: The training loader; `release` gives it its own sampler back.
        samples: How many samples, 1 or more; all there are where there are fewer.
        seed: Of the choice.
        hint: What to do where a subset cannot be taken.

    Attributes:
        chosen: Indices in the dataset, ascending.
        available: How many there were to choose from.

    Raises:
        UnsupportedSettingError: The loader is no DataLoader, the data is a stream or empty, the sampler is of an
            unknown kind, or the chosen samples do not fill one batch where incomplete ones are dropped.
    """

    def __init__(self, method: str, loader: Any, samples: int, seed: int, hint: str) -> None:
        _check_loader(method, loader, hint)
        own = loader.batch_sampler
        if own is not None and type(own).__iter__ is not BatchSampler.__iter__ and not _is_torchdata(own):
            reason = "it makes up the batches itself, from samples that are its own choice"
            raise UnsupportedSettingError(method, f"a batch sampler of type {type(own).__name__}", reason, hint)
        sampler = own.sampler if own is not None else loader.sampler
        population, over = _drawn_by(method, sampler, hint)
        self.available = len(population)
        if not self.available:
            setting = f"an empty training dataset ({type(loader.dataset).__name__})"
            raise UnsupportedSettingError(method, setting, "there is no sample to train on", "check what was loaded")
        self.chosen = chosen_samples(population, samples, seed)
        replacement = SubsetSampler(over(len(self.chosen)), self.chosen)
        if own is not None and own.drop_last and len(replacement) < own.batch_size:
            raise UnsupportedSettingError(
                method,
                f"DataLoader(drop_last=True) and {len(replacement)} samples in each process",
                f"they do not fill one batch of {own.batch_size}, and an epoch would be empty",
                "use drop_last=False, more samples, or a smaller batch",
            )
        self._sampler = replacement
        self._undo: list[Callable[[], object]] = []
        if own is not None:
            own.sampler = replacement
            self._undo.append(lambda: setattr(own, "sampler", sampler))
        if loader.sampler is sampler:
            # DataLoader forbids assigning its sampler because a running iterator would not notice; none is running.
            vars(loader)["sampler"] = replacement
            self._undo.append(lambda: vars(loader).__setitem__("sampler", sampler))

    @property
    def started(self) -> bool:
        """Whether samples have been drawn from it."""
        return bool(self._sampler.begun)

    def release(self) -> None:
        """Give the loader its own sampler back."""
        while self._undo:
            self._undo.pop()()


def _check_loader(method: str, loader: Any, hint: str) -> None:
    if not isinstance(loader, DataLoader):
        reason = "only a torch DataLoader has a sampler that can be told which samples to draw"
        raise UnsupportedSettingError(method, f"a training loader of type {type(loader).__name__}", reason, hint)
    if isinstance(loader.dataset, IterableDataset):
        reason = "a stream has no samples that could be chosen by their index"
        raise UnsupportedSettingError(method, f"an IterableDataset ({type(loader.dataset).__name__})", reason, hint)


def _drawn_by(method: str, sampler: Any, hint: str) -> tuple[Sequence[int], Callable[[int], Any]]:
    """Which indices a sampler draws from, and what makes one of its kind over so many positions."""
    iterates_as = type(sampler).__iter__
    if iterates_as in (SequentialSampler.__iter__, RandomSampler.__iter__) or _is_torchdata_random(sampler):
        return range(len(sampler.data_source)), lambda count: _with(sampler, data_source=range(count))
    if iterates_as is SubsetRandomSampler.__iter__:
        return [int(index) for index in sampler.indices], lambda count: _with(sampler, indices=range(count))
    if iterates_as is DistributedSampler.__iter__:
        return range(len(sampler.dataset)), lambda count: _distributed(sampler, count)
    reason = "it decides itself which samples it draws and how often"
    raise UnsupportedSettingError(method, f"a sampler of type {type(sampler).__name__}", reason, hint)


def _with(sampler: Any, **changes: Any) -> Any:
    # A copy shares the generator, which an exact resume looks for and finds.
    other = copy.copy(sampler)
    vars(other).update(changes)
    return other


def _distributed(sampler: Any, count: int) -> Any:
    replicas = sampler.num_replicas
    share = math.ceil(count / replicas)
    if sampler.drop_last and count % replicas:
        share = count // replicas
    return _with(sampler, dataset=range(count), num_samples=share, total_size=share * replicas)


def _is_torchdata(thing: Any) -> bool:
    return type(thing).__module__.startswith("torchdata.")


def _is_torchdata_random(sampler: Any) -> bool:
    return _is_torchdata(sampler) and hasattr(sampler, "data_source")
