"""Reads what an offline W&B run has written: the `run-*.wandb` file, a log of protobuf records.

The file is LevelDB's log format behind W&B's own seven-byte header: blocks of 32 KiB, in which a record is one full
chunk, or a first, some middle and a last one. Every chunk has a checksum, a length and a type in front of it.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FILE_HEADER = b":W&B"
_FILE_HEADER_LENGTH = 7
_BLOCK = 32 * 1024
_CHUNK_HEADER = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """The parts of a run that a reader of its page would see.

    Attributes:
        path: The `.wandb` file.
        history: One mapping for each logged row, in order.
        config: The run's configuration, the last value of every key.
        tags: The run's tags, the last ones.
        artifacts: One mapping for each artifact: name, type, run (the id of the one it came from), metadata, files
            (their paths in the artifact).
        summary: What the run's page shows of it as a whole, the last value of every key.
        run_id: What W&B knows the run by.
        axes: The key that a series (or a pattern of keys) is drawn against; empty for an axis itself.
        complete: Whether the run was finished and its end is on disk.
    """

    path: Path
    history: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    axes: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    complete: bool = False

    @property
    def files(self) -> Path:
        """Where the run's media files are."""
        return self.path.parent / "files"

    def series(self, key: str) -> list[tuple[int, Any]]:
        """The values of one key with the Trainer's step at which each was logged."""
        return [(row["trainer/global_step"], row[key]) for row in self.history if key in row]

    def table(self, key: str) -> dict[str, Any]:
        """The last table logged under `key`: its columns and data, read from the media file."""
        entry = self.series(key)[-1][1]
        content: dict[str, Any] = json.loads((self.files / entry["path"]).read_text())
        return content


def chunks(content: bytes) -> Iterator[bytes]:
    """The payload of every record in the bytes of a `.wandb` file."""
    if not content.startswith(_FILE_HEADER):
        raise ValueError("this is not the log of a W&B run")
    position, parts = _FILE_HEADER_LENGTH, []
    while position + _CHUNK_HEADER.size <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < _CHUNK_HEADER.size:
            position += left
            continue
        _, length, kind = _CHUNK_HEADER.unpack_from(content, position)
        position += _CHUNK_HEADER.size
        if position + length > len(content):
            return  # Still being written.
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            position += left - _CHUNK_HEADER.size
            continue
        parts.append(content[position : position + length])
        position += length
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []


def read_run(folder: Path, patience: float = 60.0) -> OfflineRun:
    """Read the only run below `folder`, the `save_dir` of a WandbLogger, after `wandb.finish()`.

    `finish` returns when W&B's own process has everything, which may be a moment before everything is on disk.

    Raises:
        TimeoutError: The file has no end after `patience` seconds.
    """
    [path] = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + patience
    while not (run := read_file(path)).complete:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} does not end with an exit record; was the run finished?")
        time.sleep(0.02)
    return run


def read_file(path: Path) -> OfflineRun:
    """Read one `.wandb` file."""
    from wandb.proto import wandb_internal_pb2

    run = OfflineRun(path)
    for payload in chunks(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            run.history.append(_merge({}, record.history.item))
        elif kind in ("run", "config"):
            update = record.run.config.update if kind == "run" else record.config.update
            _merge(run.config, update)
            if kind == "run":
                run.tags, run.run_id = list(record.run.tags), record.run.run_id
        elif kind == "summary":
            _merge(run.summary, record.summary.update)
        elif kind == "metric":
            run.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "exit":
            run.complete = True
        elif kind == "artifact" or (kind == "request" and record.request.HasField("log_artifact")):
            artifact = record.artifact if kind == "artifact" else record.request.log_artifact.artifact
            run.artifacts.append(
                {
                    "name": artifact.name,
                    "type": artifact.type,
                    "run": artifact.run_id,
                    "metadata": json.loads(artifact.metadata or "{}"),
                    "files": sorted(entry.path for entry in artifact.manifest.contents),
                }
            )
    return run


def _merge(target: dict[str, Any], items: Any) -> dict[str, Any]:
    """Set every item of a protobuf list, each a key or a path of nested keys with a value in JSON, in `target`."""
    for item in items:
        *parents, last = list(item.nested_key) or [item.key]
        holder = target
        for parent in parents:
            holder = holder.setdefault(parent, {})
        holder[last] = json.loads(item.value_json)
    return target
