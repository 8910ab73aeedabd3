"""What a place for records must be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from thunderstone.tracking.records import Counted, Record
from thunderstone.tracking.run_record import RunRecord


class TrackingWarning(UserWarning):
    """Something that a method reported could not be written. Training is not affected."""


class Sink(ABC):
    """A place records go to: a logger or a folder.

    A sink raises whatever goes wrong; the tracker turns that into one warning and lets training go on.

    Attributes:
        name: How a warning calls it, e.g. ``"WandbLogger"``.
        takes_scalars: Whether scalars go here.
        takes_media: Whether it has room for tables, histograms, figures and artifacts.
    """

    name: str
    takes_scalars: bool = True
    takes_media: bool = True

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        """Write the scalars of one moment, by their keys."""

    @abstractmethod
    def configuration(self, config: Mapping[str, Mapping[str, Any]], tags: Sequence[str]) -> None:
        """Write the run's configuration: each method's arguments (primitives) by its name, and the run's tags."""

    def run(self, record: RunRecord) -> None:  # noqa: B027
        """Keep the run's record with the run's files, where a place has files."""

    def finish(self) -> None:  # noqa: B027
        """The fit is over, and the run's record says how it ended."""

    def axis(self, key: str, of: str) -> None:  # noqa: B027
        """Draw the series whose keys match the pattern `of` against the one at `key`, where a place can."""

    @abstractmethod
    def table(self, record: Record) -> None:
        """Write a record whose value is a `Table`."""

    @abstractmethod
    def histogram(self, record: Record, counted: Counted) -> None:
        """Write a record whose value is a `Histogram`, counted."""

    @abstractmethod
    def figure(self, record: Record, png: bytes) -> None:
        """Write a record whose value is a figure, rendered as `png`."""

    @abstractmethod
    def artifact(self, record: Record) -> None:
        """Keep the file or folder of a record whose value is an `Artifact`."""
