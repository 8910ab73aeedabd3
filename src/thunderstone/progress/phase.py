"""Long work within a fit, for as long as it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

# Seconds before work of known length is shown at all: a line that comes and goes within a blink tells nothing.
DELAY = 0.3


def _is_amount(value: float) -> bool:
    return 0 <= value < math.inf  # False for NaN


class Line(Protocol):
    """A line below the progress bar."""

    def update(self, done: float) -> None:
        """Show that so much is done."""

    def close(self) -> None:
        """Take the line away."""


class Phase:
    """Work that takes long; `Method.progress` makes one. Shown from ``with`` on, and taken away at its end.

    Args:
        what: A few words, as shown.
        total: How much there is to do, in any unit; None where that is not known, for which NaN, infinity and less than
            nothing are taken too.
        begin: Puts a line on the screen. None shows nothing, and then all of this costs next to nothing.

    Attributes:
        done: How much is done.
    """

    def __init__(
        self, what: str, total: float | None = None, begin: Callable[[str, float | None], Line | None] | None = None
    ) -> None:
        self.what, self.done = what, 0.0
        self.total = total if total is not None and _is_amount(total) else None
        self._begin = begin
        self._line: Line | None = None

    def __enter__(self) -> Phase:
        if self._begin is not None:
            self._line = self._begin(self.what, self.total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def advance(self, by: float = 1.0) -> None:
        """So much more is done; see `to`."""
        self.to(self.done + by)

    def to(self, done: float) -> None:
        """So much is done in all.

        NaN, infinity and less than nothing change nothing: what is shown ends no training.
        """
        if not _is_amount(done):
            return
        self.done = done
        if self._line is not None:
            self._line.update(done)

    def close(self) -> None:
        """Take the line away. Safe to call more than once."""
        line, self._line = self._line, None
        if line is not None:
            line.close()
