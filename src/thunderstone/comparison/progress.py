"""Live progress on the terminal; silent where there is none."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text


class ComparisonProgress:
    """A context manager within which runs show that they go on, and how they ended.

    Args:
        console: Where to; nothing is shown unless it is a terminal.
        runs: How many runs there are.
        done: How many of them were finished before.
    """

    def __init__(self, console: Console, runs: int, done: int) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._console = console
        self._all = self._progress.add_task("all runs", total=runs, completed=done)
        self._running: dict[tuple[str, int], TaskID] = {}

    def __enter__(self) -> ComparisonProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, setting: str, seed: int) -> None:
        """A run has been started."""
        self._running[setting, seed] = self._progress.add_task(f"{setting}, seed {seed}", total=1)

    def end(self, setting: str, seed: int, said: str) -> None:
        """A run has ended, with this result or failure in words."""
        task = self._running.pop((setting, seed), None)
        if task is not None:  # one that has failed in a queue never began
            self._progress.remove_task(task)
        self._progress.advance(self._all)
        if self._console.is_terminal:
            self._console.print(Text(f"  {setting}, seed {seed}: {said}"))
