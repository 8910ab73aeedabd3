"""What a method can report: the vocabulary between methods, trackers and third-party observers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from thunderstone.tracking.scalars import whole

MOST_BINS = 512
"""What W&B takes; and more than a picture shows."""


@dataclass(frozen=True)
class Table:
    """Rows of primitives under named columns.

    Attributes:
        columns: Their names.
        rows: Each with one number, text, bool or None a column.

    Raises:
        ValueError: A row has another number of cells.
    """

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
class Histogram:
    """How often values of each size occur: of weights, gradients, rewards.

    Attributes:
        values: Real numbers in a tensor or array of any shape, or a sequence of them.
        bins: How many intervals of equal width there are between the smallest and the largest, from 1 to 512.

    Raises:
        ValueError: `bins` is out of range.
    """

    values: Any
    bins: int = 64

    def __post_init__(self) -> None:
        if isinstance(self.bins, bool) or not isinstance(self.bins, int) or not 1 <= self.bins <= MOST_BINS:
            raise ValueError(f"Histogram(bins={self.bins!r}): a whole number from 1 to {MOST_BINS}, e.g. 64")

    def count(self) -> Counted:
        """Count the values; waits for the device they are on.

        Raises:
            ValueError: None of the values is a finite real number, or they are spread over processes.
        """
        values = self.values
        if isinstance(values, Tensor):
            if values.is_complex():
                raise ValueError("a histogram is made of real numbers, and the tensor holds complex ones")
            values = whole(values).detach().cpu().double().numpy()
        flat = np.asarray(values, dtype=np.float64).reshape(-1)
        finite = flat[np.isfinite(flat)]
        if not finite.size:
            raise ValueError(f"none of the histogram's {flat.size} values is a finite number")
        counts, edges = np.histogram(finite, bins=self.bins)
        return Counted(
            edges=edges,
            counts=counts,
            smallest=float(finite.min()),
            largest=float(finite.max()),
            total=float(finite.sum()),
            squares=float(np.square(finite).sum()),
            not_finite=int(flat.size - finite.size),
        )


@dataclass(frozen=True)
class Counted:
    """A histogram's numbers.

    Attributes:
        edges: The limits of the intervals, one more than there are of them, ascending.
        counts: How many values lie in each; the last interval includes its upper limit.
        smallest: Of the values that count.
        largest: Of the values that count.
        total: Their sum.
        squares: The sum of their squares.
        not_finite: How many values are NaN or infinite; they are in no interval.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    smallest: float
    largest: float
    total: float
    squares: float
    not_finite: int

    def table(self) -> Table:
        """A row an interval; what is not finite in a last row, where there is any, without limits."""
        rows = list(zip(self.edges[:-1].tolist(), self.edges[1:].tolist(), self.counts.tolist(), strict=True))
        if self.not_finite:
            rows.append((math.nan, math.nan, self.not_finite))
        return Table(["low", "high", "count"], rows)


@dataclass(frozen=True)
class Record:
    """One thing a method reported.

    Attributes:
        method: The reporting method's name, e.g. ``"sam"``.
        name: The metric's name without the method, e.g. ``"gradient_norm"``.
        value: A number or a tensor with one element (a scalar, which later changes do not reach), a Histogram, a Table,
            an Artifact, or a matplotlib Figure.
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
