"""Records as plain files: what there is where no logger is, and beside a logger that keeps a local folder.

CSV, PNG and JSON are read by everything, without an account and without this package. Scalars are in long format, one
row a value: unlike one column a metric, a metric that appears late doesn't make the file be written anew.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from thunderstone.tracking.configuration import primitive
from thunderstone.tracking.numbered import claimed
from thunderstone.tracking.records import Artifact, Counted, Record, Table
from thunderstone.tracking.run_record import RunRecord
from thunderstone.tracking.scalars import cell
from thunderstone.tracking.sink import Sink


class FolderSink(Sink):
    """Writes records to a folder that is created with the first of them. Files that exist are never overwritten.

    ::

        run.json                             how the run was started and how it ended
        config.json                          every method and its arguments
        scalars.csv                          step,epoch,key,value
        tables/METHOD/NAME_stepN.csv
        histograms/METHOD/NAME_stepN.csv     low,high,count: a row an interval
        figures/METHOD/NAME_stepN.png
        artifacts/METHOD/NAME_stepN.EXT      a copy, and its type and metadata in NAME_stepN.json

    Args:
        locate: Creates the folder and returns it, at the first record.
        name: How a warning calls it.
        takes_scalars: False beside a logger that writes the scalars itself.
    """

    def __init__(self, locate: Callable[[], Path], name: str, takes_scalars: bool = True) -> None:
        self.name = name
        self.takes_scalars = takes_scalars
        self._locate = locate
        self._root: Path | None = None
        self._config: Mapping[str, Any] | None = None
        self._run: RunRecord | None = None

    def root(self) -> Path:
        """The folder; created if this is the first call."""
        if self._root is None:
            self._root = self._locate()
        if self._run is not None:
            run, self._run = self._run, None
            run.place(self._root)
        if self._config is not None:
            config, self._config = self._config, None
            self._write_configuration(self._root, config)
        return self._root

    def scalars(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        path = self.root() / "scalars.csv"
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(["step", "epoch", "key", "value"])
            writer.writerows([step, epoch, key, value] for key, value in values.items())

    def run(self, record: RunRecord) -> None:
        self._run = record

    def configuration(self, config: Mapping[str, Mapping[str, Any]], tags: Sequence[str]) -> None:
        # Written with the first record: a run that reports nothing leaves no folder behind.
        self._config = config

    def table(self, record: Record) -> None:
        self._claim("tables", record, ".csv").write_bytes(as_csv(record.value).encode())

    def histogram(self, record: Record, counted: Counted) -> None:
        self._claim("histograms", record, ".csv").write_bytes(as_csv(counted.table()).encode())

    def figure(self, record: Record, png: bytes) -> None:
        self._claim("figures", record, ".png").write_bytes(png)

    def artifact(self, record: Record) -> None:
        artifact: Artifact = record.value
        source = existing(artifact)
        folder = self._claim("artifacts", record, "")
        target = folder / source.name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
        description = described(record, f"{folder.name}/{source.name}")
        folder.with_name(f"{folder.name}.json").write_text(description, encoding="utf-8")

    def _claim(self, kind: str, record: Record, suffix: str) -> Path:
        """A path that nothing has been written to, reserved; a folder where there is no suffix."""
        place = place_of(kind, record)
        folder = self.root() / place.parent
        folder.mkdir(parents=True, exist_ok=True)
        return claimed(folder, place.name, suffix)

    @staticmethod
    def _write_configuration(root: Path, config: Mapping[str, Any]) -> None:
        content = _json(config)
        for number in count(1):
            path = root / (f"config_{number}.json" if number > 1 else "config.json")
            if not path.exists():
                path.write_text(content, encoding="utf-8")
            if path.read_text(encoding="utf-8") == content:
                return


def place_of(kind: str, record: Record) -> PurePosixPath:
    """Where a record's file is below a run's folder, without its suffix: ``KIND/METHOD/NAME_stepN``."""
    *parents, name = [_safe(part) for part in record.key.split("/")]
    return PurePosixPath(kind, *parents, f"{name}_step{record.step}")


def as_csv(table: Table) -> str:
    """A table as CSV, with a first line of the columns' names."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(table.columns)
    writer.writerows([cell(value) for value in row] for row in table.rows)
    return text.getvalue()


def described(record: Record, path: str) -> str:
    """What is to be known of a record's artifact, as JSON; `path` is that of its copy, seen from the description."""
    artifact: Artifact = record.value
    return _json(
        {
            "method": record.method,
            "name": record.name,
            "type": artifact.type,
            "path": path,
            "step": record.step,
            "epoch": record.epoch,
            "metadata": primitive(artifact.metadata),
        }
    )


def existing(artifact: Artifact) -> Path:
    """The artifact's path. Raises FileNotFoundError where there is nothing."""
    path = Path(artifact.path).absolute()
    if not path.exists():
        raise FileNotFoundError(f"the artifact's path {str(path)!r} does not exist")
    return path


def new_run_folder(root: str) -> Path:
    """Create ``root/runs/2025-01-31_14-05-09``, or that with a number where another run has started in this second.

    Named by time because nothing else names a run that has no logger; names sort by age.

    Raises:
        ValueError: `root` is a URL.
    """
    runs = local(root) / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    moment = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return claimed(runs, moment)


def local(path: str) -> Path:
    """`path` as a Path. Raises ValueError for a URL, which Path would silently turn into a folder on this machine."""
    if "://" in path:
        raise ValueError(f"{path!r} is not a folder on this machine, and files are only written to local folders")
    return Path(path)


def _safe(part: str) -> str:
    # A metric's name may hold what a file's name may not, and "..", which would lead out of the folder.
    return re.sub(r"[^\w.+=-]", "_", part).lstrip(".") or "_"


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"
