"""What a report shows, wherever it was read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Point = tuple[float, float]


@dataclass(frozen=True)
class ShownTable:
    """A table: its title, the heads of its columns, and its rows as text or numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Picture:
    """A figure: its title, and its bytes with their type, e.g. ``image/png``."""

    title: str
    content: bytes
    type: str = "image/png"


@dataclass
class ShownRun:
    """One run.

    Attributes:
        name: Unique in the report.
        group: What it has a colour in common with: a comparison's setting, or nothing but itself.
        status: ``"finished"``, ``"failed"``, ``"interrupted"``, ``"killed"``, ``"running"``, ``"unreadable"`` or, where
            nothing says, ``"unknown"``.
        reason: Why it did not finish.
        curves: By name, the steps and values of everything that was logged as a number, in order.
        metrics: By name, the last value.
        methods: The arguments of every attached method.
        facts: Whatever else is known: started, seed, hardware, git state …
        versions: By package.
        command: The command line, word by word.
        directory: Where it was started.
        tables: Tables that methods have recorded.
        pictures: Figures that methods have recorded.
        notes: What must be said about the reading, e.g. a file that ends in half a line.
    """

    name: str
    group: str = ""
    status: str = "unknown"
    reason: str = ""
    curves: dict[str, list[Point]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    methods: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] = ()
    directory: str = ""
    tables: list[ShownTable] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Everything that is shown.

    Attributes:
        title: Of the page.
        runs: In the order in which they are shown.
        tables: About all runs together.
        pictures: About all runs together.
        notes: What must be known to read the rest.
        command: The command line that made all runs, if one did.
        directory: Where it was started.
    """

    title: str
    runs: list[ShownRun]
    tables: list[ShownTable] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    command: Sequence[str] = ()
    directory: str = ""
