"""Live progress on the terminal: a line a run, with what it has learnt so far."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class DemoProgress:
    """A context manager within which runs show their epochs.

    Args:
        console: Where to.
        runs: How many runs there will be.
        epochs: Epochs of each.
    """

    def __init__(self, console: Console, runs: int, epochs: int) -> None:
        self._epochs = epochs
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._all = self._progress.add_task("[bold]all runs[/]", total=runs, note="")

    def __enter__(self) -> DemoProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def run(self, label: str, seed: int) -> RunProgress:
        """Begin a line for a run."""
        note = "starting"
        task = self._progress.add_task(f"{label:<6} seed {seed}", total=self._epochs, note=note)
        return RunProgress(self._progress, task, self._all)


class RunProgress:
    """The line of one run."""

    def __init__(self, progress: Progress, task: TaskID, everything: TaskID) -> None:
        self._progress, self._task, self._all = progress, task, everything

    def epoch(self, done: int, accuracy: float) -> None:
        """So many epochs are done, and the test images are classified with this accuracy (0 to 1)."""
        self._progress.update(self._task, completed=done, note=f"{accuracy:6.1%} of test images")

    def done(self) -> None:
        """The run is trained and measured."""
        self._progress.advance(self._all)
