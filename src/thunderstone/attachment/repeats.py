"""Every batch of a training loader several times in a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from thunderstone.errors import UnsupportedSettingError

# Whoever finds these would take the position of what is repeated for the position of the repetition.
_POSITION = ("state_dict", "load_state_dict")


class Repeats:
    """Stands in for a loader's batch sampler and yields each of its batches several times in a row.

    Everything else is the sampler's own, its position aside: a loader that keeps it counts what was yielded.

    Args:
        sampler: The loader's batch sampler, or its sampler where the loader does no batching.
        times: How often each, 1 or more.
    """

    def __init__(self, sampler: Any, times: int) -> None:
        self._sampler = sampler
        # No number: numbers of a sampler are its place in the data, which an exact resume writes down and restores.
        self._copies = (None,) * times
        self.begun: list[bool] = []

    def __iter__(self) -> Iterator[Any]:
        # A generator, so that nothing is drawn before the first index is asked for: the loader draws a seed earlier.
        self.begun[:] = [True]
        for batch in self._sampler:
            for _ in self._copies:
                yield batch

    def __len__(self) -> int:
        return len(self._sampler) * len(self._copies)

    def __getattr__(self, name: str) -> Any:
        # `set_epoch` among others: who looks for it must find it where there is one, and only there.
        if name in ("_sampler", "_copies", *_POSITION):
            raise AttributeError(name)
        return getattr(self._sampler, name)


def check_repeatable(method: str, loader: Any, hint: str) -> None:
    """Refuse a loader whose batches are not decided by a sampler.

    Raises:
        UnsupportedSettingError: It is no DataLoader, its data is a stream, or it hands batches out of order.
    """
    if not isinstance(loader, DataLoader):
        reason = "only a torch DataLoader has a sampler that can be told to draw a batch again"
        raise UnsupportedSettingError(method, f"a training loader of type {type(loader).__name__}", reason, hint)
    if isinstance(loader.dataset, IterableDataset):
        reason = "a stream hands out a sample once, and has no index by which it could be read again"
        raise UnsupportedSettingError(method, f"an IterableDataset ({type(loader.dataset).__name__})", reason, hint)
    if not getattr(loader, "in_order", True):
        reason = "batches arrive in another order than the sampler drew them in, and copies apart from one another"
        raise UnsupportedSettingError(method, "DataLoader(in_order=False)", reason, "use in_order=True")
