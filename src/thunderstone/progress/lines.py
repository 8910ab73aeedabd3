"""Lines below the progress bars that Lightning has."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from lightning.pytorch.callbacks import RichProgressBar
from rich.markup import escape
from tqdm import tqdm  # type: ignore[import-untyped]

from thunderstone.progress.phase import DELAY

# Rich gives all rows the width of the longest name. In a console narrower than this, the metrics beside it are what the
# name of the method would be paid with.
_WIDE = 120
# As Lightning's own, without the iterations in a second: what counts as one differs from phase to phase.
_KNOWN = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
_UNKNOWN = "{desc}: {n_fmt} [{elapsed}]"


class TqdmLine:
    """A bar of tqdm's in the first line that is free.

    Args:
        what: What is shown before the bar.
        total: How much there is to do, or None.
    """

    def __init__(self, what: str, total: float | None) -> None:
        self._bar = tqdm(
            desc=what,
            total=total,
            bar_format=_UNKNOWN if total is None else _KNOWN,
            delay=0 if total is None else DELAY,
            leave=False,
            dynamic_ncols=True,
            # Where Lightning's are.
            file=sys.stdout,
        )

    def update(self, done: float) -> None:
        """Whole numbers are shown."""
        self._bar.update(int(done) - self._bar.n)

    def close(self) -> None:
        """Leave the line as it was before."""
        self._bar.close()


class RichTasks:
    """Tasks in the display that a RichProgressBar has on the screen.

    Lightning finds its tasks by their places in the list of all, so none is ever taken out of it: one that is done with
    is hidden, as Lightning does with its own, and used again.
    """

    def __init__(self) -> None:
        self._spare: dict[bool, list[Any]] = {}
        self._of: Any = None

    def line(self, bar: RichProgressBar, what: str, total: float | None) -> RichLine | None:
        """A line for some work; None while the bar has nothing on the screen."""
        progress = bar.progress
        if progress is None or not progress.live.is_started:
            return None
        if progress.console.width < _WIDE:
            what = what.partition(": ")[2] or what
        what = escape(what)  # in descriptions "[x]" is markup
        if progress is not self._of:
            # With `leave=True` each epoch has a display of its own.
            self._of, self._spare = progress, {}
        known = total is not None
        spare = self._spare.setdefault(known, [])
        size = total if total is not None else math.inf
        if spare:
            task = spare.pop()
            progress.reset(task, total=size, description=what, visible=not known)
        else:
            # Of another kind where the total is infinite, so one is not made into the other.
            task = progress.add_task(what, total=size, visible=not known)
        # Of what is not known to advance this may be the only drawing.
        bar.refresh(hard=not known)
        return RichLine(bar, task, time.monotonic() + DELAY if known else 0.0, spare)


class RichLine:
    """A task of a RichProgressBar's display, hidden until it has taken a moment."""

    def __init__(self, bar: RichProgressBar, task: Any, shown_from: float, spare: list[Any]) -> None:
        self._bar, self._progress, self._task, self._spare = bar, bar.progress, task, spare
        self._shown_from = shown_from

    def update(self, done: float) -> None:
        """Whole numbers are shown."""
        assert self._progress is not None
        visible = time.monotonic() >= self._shown_from
        self._progress.update(self._task, completed=done, visible=visible)
        if visible:
            self._bar.refresh()

    def close(self) -> None:
        """Hide it."""
        assert self._progress is not None
        self._progress.update(self._task, visible=False)
        self._spare.append(self._task)
        # At once: what follows may take its time, and nothing else would draw.
        self._bar.refresh(hard=True)
