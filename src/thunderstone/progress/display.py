"""What methods show on the screen during one fit."""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar

from thunderstone.progress.lines import RichTasks, TqdmLine
from thunderstone.progress.phase import Line, Phase
from thunderstone.progress.time_left import TimeLeft, share_done, written

if TYPE_CHECKING:
    from thunderstone.attachment.rounds import Rounds


class Display:
    """Shows short values in the Trainer's progress bar, and work in progress below it.

    There is something to see where the bar itself is on a screen: on rank zero, enabled, and with a terminal (in a
    notebook the values alone). Anywhere else nothing is written, and the bar is not touched.

    Args:
        trainer: The Trainer.
        rounds: The rounds of the fit, or None.
    """

    def __init__(self, trainer: Trainer, rounds: Rounds | None) -> None:
        self._trainer = trainer
        self._rounds = rounds
        self._values: dict[str, str] = {}
        # Weakly: whoever is in the middle of a phase holds it.
        self._phases: weakref.WeakSet[Phase] = weakref.WeakSet()
        self._time_left = TimeLeft()
        self._left_last: str | None = None
        self._tasks = RichTasks()
        self._undo: Callable[[], None] | None = None

    # -- life cycle ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Put the values into what the bar shows."""
        bar = self._trainer.progress_bar_callback
        if bar is None or not _on_a_screen(bar, self._trainer):
            return
        attributes, own = vars(bar), bar.get_metrics
        before = {"get_metrics": attributes["get_metrics"]} if "get_metrics" in attributes else {}

        def put_back() -> None:
            attributes.pop("get_metrics", None)
            attributes.update(before)

        attributes["get_metrics"] = lambda *arguments: self._with_values(own(*arguments))
        self._undo = put_back

    def stop(self) -> None:
        """Leave the bar as it was. Safe to call more than once."""
        for phase in list(self._phases):
            phase.close()
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    # -- values --------------------------------------------------------------------------------------------------------

    def show(self, values: dict[str, str | float | None]) -> None:
        """Show values from now on; None takes one away."""
        for name, value in values.items():
            if value is None:
                self._values.pop(name, None)
            else:
                self._values[name] = f"{value:.3g}" if isinstance(value, float) else str(value)

    def _with_values(self, own: dict[str, Any]) -> dict[str, Any]:
        # What does not fit into the line is cut at its end. Without the round nothing else can be read; then comes what
        # the user asked for. As texts: each bar would pad numbers in its own way.
        metrics = {**self._round(), **own}
        left = self._left()
        others = self._values if left is None else {**self._values, "left": left}
        return {**metrics, **{name: value for name, value in others.items() if name not in metrics}}

    def _round(self) -> dict[str, str]:
        rounds = self._rounds
        if rounds is None or rounds.last == 0:
            return {}
        return {"round": str(rounds.index) if rounds.last is None else f"{rounds.index}/{rounds.last}"}

    def _left(self) -> str | None:
        rounds = self._rounds
        # Lightning also asks when a validation ends: it says as before.
        if rounds is not None and rounds.last and self._trainer.training:
            seconds = self._time_left.seconds(rounds.index, rounds.last, share_done(self._trainer), time.monotonic())
            self._left_last = None if seconds is None else written(seconds)
        return self._left_last

    # -- work in progress ----------------------------------------------------------------------------------------------

    def phase(self, what: str, total: float | None) -> Phase:
        """Work that is shown while it lasts."""
        phase = Phase(what, total, self._line)
        self._phases.add(phase)
        return phase

    def _line(self, what: str, total: float | None) -> Line | None:
        bar = self._trainer.progress_bar_callback
        if bar is None or not _on_a_screen(bar, self._trainer) or not _is_terminal():
            return None
        if isinstance(bar, RichProgressBar):
            return self._tasks.line(bar, what, total)
        return TqdmLine(what, total) if isinstance(bar, TQDMProgressBar) else None


def _on_a_screen(bar: ProgressBar, trainer: Trainer) -> bool:
    # Not every bar says whether it is enabled; a rank's own bar is disabled in its `setup`.
    enabled = getattr(bar, "is_enabled", True)
    return trainer.is_global_zero and enabled and (_is_terminal() or _is_notebook())


def _is_terminal() -> bool:
    # While Rich draws, a stand-in of its own is the standard output, and says that it is no terminal.
    isatty = getattr(getattr(sys.stdout, "rich_proxied_file", sys.stdout), "isatty", None)
    return bool(isatty and isatty())


def _is_notebook() -> bool:
    # As tqdm finds out.
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", {})
