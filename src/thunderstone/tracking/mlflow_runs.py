"""MLflow as a place for records. `mlflow` is imported only when something is written to it, by its logger."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_warn

from thunderstone.tracking.folder import as_csv, described, existing, place_of
from thunderstone.tracking.records import Artifact, Counted, Record
from thunderstone.tracking.run_record import NAME, RunRecord
from thunderstone.tracking.sink import Sink, TrackingWarning

TAG = "thunderstone.methods"


class MLFlowSink(Sink):
    """The run of a MLFlowLogger: metrics, parameters and a tag; everything else as files among its artifacts.

    MLflow's page shows CSV files as tables and PNG files as pictures. They are where a folder has them
    (``tables/METHOD/NAME_stepN.csv``), and below ``fit_2/`` and so on for further fits into one run. The run is
    finished by its logger.

    Args:
        logger: The logger, attached to a Trainer.
    """

    def __init__(self, logger: MLFlowLogger) -> None:
        self.name = type(logger).__name__
        self.logger = logger
        self._root: PurePosixPath | None = None
        self._refused: set[str] = set()
        self._taken: Counter[PurePosixPath] = Counter()
        self._kept: tempfile.TemporaryDirectory[str] | None = None

    def scalars(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        taken = {"epoch": float(epoch), **{key: value for key, value in values.items() if key not in self._refused}}
        try:
            self.logger.log_metrics(taken, step=step)
        except Exception as error:
            self._one_by_one(taken, step, error)

    def _one_by_one(self, values: Mapping[str, float], step: int, error: Exception) -> None:
        """Write each scalar by itself after MLflow has refused them together; what it refuses is left out from now on.

        A store of files cannot have both ``a`` and ``a/b``, and no store takes every name. It may have written some of
        the step before it refused: of these points there are two.
        """
        refused: dict[str, Exception] = {}
        for number, (key, value) in enumerate(values.items()):
            try:
                self.logger.log_metrics({key: value}, step=step)
            except Exception as own:
                if number == 0:
                    raise error from None  # the epoch's name is a good one: nothing can be written at all
                refused[key] = own
        if refused:
            self._refused |= refused.keys()
            reasons = "; ".join(f"{key!r} ({type(own).__name__}: {own})" for key, own in refused.items())
            rank_zero_warn(
                f"{self.name} does not take the name of these metrics, which are left out from now on: {reasons}",
                category=TrackingWarning,
            )

    def run(self, record: RunRecord) -> None:
        # It is written once more, here, when the fit ends.
        self._kept = tempfile.TemporaryDirectory()
        record.place(Path(self._kept.name))
        self._keep_record()

    def finish(self) -> None:
        if self._kept is None:
            return
        try:
            self._keep_record()
        finally:
            self._kept.cleanup()
            self._kept = None

    def configuration(self, config: Mapping[str, Mapping[str, Any]], tags: Sequence[str]) -> None:
        # What a parameter was once said to be cannot be changed, in a second fit either.
        present = self._client.get_run(self.logger.run_id).data.params
        named: dict[str, dict[str, Any]] = {}
        for name, arguments in config.items():
            texts = {f"{name}/{argument}": str(value) for argument, value in arguments.items()}
            taken = any(present.get(key, text) != text for key, text in texts.items())
            named[f"thunderstone/{name}" if taken else name] = dict(arguments)
        self._client.set_tag(self.logger.run_id, TAG, ",".join(tags))
        self.logger.log_hyperparams(named)

    def table(self, record: Record) -> None:
        self._text(as_csv(record.value), self._claim("tables", record), ".csv")

    def histogram(self, record: Record, counted: Counted) -> None:
        self._text(as_csv(counted.table()), self._claim("histograms", record), ".csv")

    def figure(self, record: Record, png: bytes) -> None:
        place = self._claim("figures", record)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{place.name}.png")
            path.write_bytes(png)
            self._client.log_artifact(self.logger.run_id, str(path), str(place.parent))

    def artifact(self, record: Record) -> None:
        artifact: Artifact = record.value
        source = existing(artifact)
        place = self._claim("artifacts", record)
        # A folder goes there whole, under its own name.
        self._client.log_artifact(self.logger.run_id, str(source), str(place))
        self._text(described(record, f"{place.name}/{source.name}"), place, ".json")

    @property
    def _client(self) -> Any:
        return self.logger.experiment

    def _keep_record(self) -> None:
        assert self._kept is not None
        root = self._own_root()
        path = None if root == PurePosixPath() else str(root)
        self._client.log_artifact(self.logger.run_id, str(Path(self._kept.name, NAME)), path)

    def _text(self, text: str, place: PurePosixPath, suffix: str) -> None:
        self._client.log_text(self.logger.run_id, text, f"{place}{suffix}")

    def _claim(self, kind: str, record: Record) -> PurePosixPath:
        """Where a record's file goes; a name of its own, since MLflow would take a second one for a new version."""
        place = self._own_root() / place_of(kind, record)
        self._taken[place] += 1
        number = self._taken[place]
        return place if number == 1 else place.with_name(f"{place.name}_{number}")

    def _own_root(self) -> PurePosixPath:
        """Where this fit's files are in the run: below a folder of their own if another fit has left some."""
        if self._root is None:
            present = {entry.path for entry in self._client.list_artifacts(self.logger.run_id)}
            if NAME not in present:
                self._root = PurePosixPath()
            else:
                free = next(number for number in count(2) if f"fit_{number}" not in present)
                self._root = PurePosixPath(f"fit_{free}")
        return self._root
