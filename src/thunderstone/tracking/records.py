"""What a method can report: the vocabulary between methods, trackers and third-party observers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows of primitives under named columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"Table row {number} has {len(row)} cells for {len(self.columns)} columns")


@dataclass(frozen=True)
class Artifact:
    """A file (or folder) worth keeping with the run: a ticket, a mask, averaged weights.

    Attributes:
        path: The file or folder, already written.
        type: What it is, e.g. ``"ticket"``; W&B groups artifacts by it.
        metadata: Primitives that describe it.
    """

    path: Path
    type: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One thing a method reported.

    Attributes:
        method: The reporting method's name, e.g. ``"sam"``.
        name: The metric's name without the method, e.g. ``"gradient_norm"``.
        value: A number or 0-d tensor (a scalar), a Table, an Artifact, or a matplotlib Figure.
        step: The step Lightning's own `self.log` would use at this moment.
        epoch: The Trainer's current epoch.
        within_step: Reported from inside a training step, so subject to the Trainer's `log_every_n_steps`.
    """

    method: str
    name: str
    value: Any
    step: int
    epoch: int
    within_step: bool = False

    @property
    def key(self) -> str:
        """The namespaced name, ``method/name``."""
        return f"{self.method}/{self.name}"
