"""The log of an offline W&B run, `run-ID.wandb`, record by record.

`wandb` itself has no reader in Python any more. The file is LevelDB's log format after a header of seven bytes: blocks
of 32 KiB, in them chunks of a checksum, a length, a kind and a payload, where a record is one full chunk, or a first,
some in the middle and a last one. Its records are W&B's own protobuf messages.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

_HEADER = b":W&B"
_HEADER_LENGTH = 7
_BLOCK = 32 * 1024
_CHUNK = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class LogError(ValueError):
    """The file is not the log of a W&B run."""


def records(path: Path) -> Iterator[Any]:
    """The records of a log, as `wandb.proto.wandb_internal_pb2.Record`; up to the first that is damaged or not whole.

    Raises:
        LogError: The file does not begin as a log does.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    messages: Any = import_module("wandb.proto.wandb_internal_pb2")
    for payload in payloads(path.read_bytes()):
        record = messages.Record()
        try:
            record.ParseFromString(payload)
        except DecodeError:
            return
        yield record


def payloads(content: bytes) -> Iterator[bytes]:
    """The payload of every record in the bytes of a log; see `records`."""
    if not content.startswith(_HEADER):
        raise LogError("it does not begin as the log of a W&B run does")
    position, begun = _HEADER_LENGTH, bytearray()
    while position + _CHUNK.size <= len(content):
        in_block = _BLOCK - position % _BLOCK
        if in_block < _CHUNK.size:
            position += in_block  # the rest of a block that is too short for a chunk is padding
            continue
        checksum, length, kind = _CHUNK.unpack_from(content, position)
        begin, end = position + _CHUNK.size, position + _CHUNK.size + length
        payload = content[begin:end]
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or len(payload) < length:
            return
        if zlib.crc32(payload, zlib.crc32(bytes([kind]))) != checksum:
            return
        if kind in (_FULL, _FIRST):
            begun.clear()
        begun += payload
        if kind in (_FULL, _LAST):
            yield bytes(begun)
        position = end


def merge(target: dict[str, Any], items: Any) -> dict[str, Any]:
    """Put the items of a record (a key, or a path of keys, and a value in JSON each) into a mapping, and return it."""
    for item in items:
        *parents, last = list(item.nested_key) or [item.key]
        holder = target
        for parent in parents:
            holder = holder.setdefault(parent, {})
        holder[last] = json.loads(item.value_json)
    return target
