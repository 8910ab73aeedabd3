"""Telling how far generation is."""

from __future__ import annotations

from collections.abc import Callable


class Watch:
    """Counts the steps of generation, each weighted by how many texts it is for, and tells the share that is done.

    Texts that end early stay in the count: the last text of a batch is what takes the time.

    Args:
        texts: How many texts there will be, over all batches.
        width: Most tokens of each.
        tell: Called with the share, 0 to 1, after every step and every batch; None is told nothing.
    """

    def __init__(self, texts: int, width: int, tell: Callable[[float], object] | None) -> None:
        self._all, self._width, self._tell = texts * width, width, tell
        self._before, self._batch, self._step = 0, 0, 0

    def begin(self, texts: int) -> None:
        """A batch of so many texts begins."""
        self._batch, self._step = texts, 0

    def step(self) -> None:
        """Each text of the batch that has not ended has one token more."""
        self._step += 1
        if self._tell is not None:
            self._tell((self._before + self._batch * self._step) / self._all)

    def end(self) -> None:
        """All texts of the batch have ended."""
        self._before += self._batch * self._width
        if self._tell is not None and self._step < self._width:
            self._tell(self._before / self._all)
