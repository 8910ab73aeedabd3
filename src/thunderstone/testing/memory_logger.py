"""A logger that keeps what it is given, on every rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers.logger import Logger


class Experiment:
    """What `logger.experiment` is: a place user code writes to directly."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = entries

    def write(self, name: str, value: float) -> None:
        """Keep a value; the step is not known here."""
        self._entries.append((None, {name: value}))


Entry = tuple[int | None, dict[str, float]]


class MemoryLogger(Logger):
    """Keeps every call in `entries`. Unlike Lightning's own it also writes on ranks other than zero, so that what a
    method logs there is seen.

    Attributes:
        entries: ``(step, metrics)`` for each call, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> str:
        return "0"

    @property
    def experiment(self) -> Experiment:
        """The object user code writes to directly."""
        return Experiment(self.entries)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.entries.append((step, {key: float(value) for key, value in metrics.items()}))

    def log_hyperparams(self, params: Any, *arguments: Any, **keywords: Any) -> None:
        """Arguments are not what is measured here."""
