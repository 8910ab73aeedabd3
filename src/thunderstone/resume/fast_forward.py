"""Bringing a fresh iterator of a loader to the place where another one was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from thunderstone.random_state import RandomState


def is_stateful(thing: Any) -> bool:
    """Whether an object has `state_dict` and `load_state_dict`."""
    return callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None))


def restores_itself(loader: Any, reload_consumed: bool) -> bool:
    """Whether a loader's own saved state is what it is resumed from; otherwise its epoch is gone through again.

    torchdata's StatefulDataLoader is left to itself only where that is exact: it seeds its workers anew, and skips
    through a sampler without a state under whatever random state it finds.
    """
    if not is_stateful(loader):
        return False
    if any(cls.__module__.startswith("torchdata.") for cls in type(loader).__mro__):
        return not reload_consumed if loader.num_workers > 0 else is_stateful(loader.dataset)
    return True


def loads_in_process(loader: Any) -> bool:
    """Whether fetching a batch runs the dataset's code in the training process."""
    return isinstance(loader, DataLoader) and loader.num_workers == 0


def indices_decide(loader: DataLoader[Any]) -> bool:
    """Whether a loader does nothing but draw indices and fetch what they stand for."""
    own_way = type(loader).__iter__ is not DataLoader.__iter__
    return not own_way and not isinstance(loader.dataset, IterableDataset)


def skips_by_index(loader: Any, iterator: Any) -> bool:
    """Whether consumed batches can be passed over without being loaded, by drawing their indices alone."""
    dataset = getattr(loader, "dataset", None)
    return loads_in_process(loader) and hasattr(iterator, "_sampler_iter") and not isinstance(dataset, IterableDataset)


def advance(loader: Any, iterator: Any, consumed: int) -> bool:
    """Pass over the batches that were consumed.

    Returns:
        Whether random numbers of this process were drawn after the first of them: what those numbers decided cannot
        be reproduced, since the interrupted run drew them in between its own.
    """
    by_index = skips_by_index(loader, iterator)
    source = iterator._sampler_iter if by_index else iterator
    before: RandomState | None = None
    for number in range(consumed):
        if next(source, loader) is loader:
            break
        if number == 0:
            before = RandomState()
    if by_index:
        iterator._num_yielded = consumed
        if hasattr(iterator, "_sampler_iter_yielded"):
            iterator._sampler_iter_yielded = consumed
    return before is not None and not _same(before, RandomState())


def _same(first: RandomState, second: RandomState) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return bool(
        one["torch"].equal(other["torch"])
        and one["python"]["words"].equal(other["python"]["words"])
        and one["numpy"]["keys"].equal(other["numpy"]["keys"])
        and one["numpy"]["position"] == other["numpy"]["position"]
    )


class Skipping:
    """A sampler without the first items of its next iteration.

    Args:
        sampler: The sampler.
        count: How many items to leave out.
    """

    def __init__(self, sampler: Any, count: int) -> None:
        self._sampler, self._count = sampler, count

    def __iter__(self) -> Iterator[Any]:
        # A generator, so that nothing is drawn before the first index is asked for: the loader draws a seed earlier.
        yield from islice(self._sampler, self._count, None)

    def __len__(self) -> int:
        return len(self._sampler)


@contextmanager
def skipping(holder: Any, name: str, count: int) -> Iterator[None]:
    """Iterators made inside of the sampler that an object holds leave out its first items."""
    own = getattr(holder, name)
    # A DataLoader refuses to have its samplers replaced once it is made; this one gets its own back at once.
    vars(holder)[name] = Skipping(own, count)
    try:
        yield
    finally:
        vars(holder)[name] = own


class FirstDraw:
    """Calls a function right before the first index of an iterator is drawn, and then takes itself out.

    Samplers draw their permutation when they are first asked for an index, which in a loader without workers is long
    after the iterator was made.
    """

    def __init__(self, iterator: Any, before: Any) -> None:
        self._iterator, self._inner, self._before = iterator, iterator._sampler_iter, before

    def __iter__(self) -> FirstDraw:
        return self

    def __next__(self) -> Any:
        if self._iterator._sampler_iter is self:
            self._iterator._sampler_iter = self._inner
            self._before()
        return next(self._inner)


class StatefulFirstDraw(FirstDraw):
    """The same around a sampler's iterator that has a state of its own."""

    def state_dict(self) -> Any:
        """The inner iterator's."""
        return self._inner.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """The inner iterator's."""
        self._inner.load_state_dict(state)


def before_first_draw(iterator: Any, function: Any) -> None:
    """Call a function once, right before the iterator of a loader without workers draws its first index."""
    kind = StatefulFirstDraw if is_stateful(iterator._sampler_iter) else FirstDraw
    iterator._sampler_iter = kind(iterator, function)
