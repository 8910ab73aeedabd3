"""Scalars from TensorBoard's event files, where a package that knows their messages is installed.

An event file is a row of records, each a length, a checksum of it, a message and a checksum of that. `tensorboard` has
a reader of its own and tensorboardX none, but both have the messages, and to find them in the file takes less than that
reader would bring along.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from thunderstone.report.model import Point

PATTERN = "events.out.tfevents.*"
_MESSAGES = ("tensorboard.compat.proto.event_pb2", "tensorboardX.proto.event_pb2")
_LENGTH = struct.Struct("<QI")
_CHECKSUM = 4
_FLOAT = struct.Struct("<f")
_DT_FLOAT = 1


@cache
def _messages() -> Any:
    """The module of the messages; None where no package brings one."""
    for name in _MESSAGES:
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


def can_be_read() -> bool:
    """Whether a package is installed that knows the messages."""
    return _messages() is not None


def event_scalars(path: Path, curves: dict[str, list[Point]]) -> int:
    """Add the scalars of an event file to `curves`, without that of the epoch; how many records could not be read.

    The end of a file that is still written to, or was when its process was killed, is no loss.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    lost = 0
    for payload in _payloads(path.read_bytes()):
        event = _messages().Event()
        try:
            event.ParseFromString(payload)
        except DecodeError:
            lost += 1
            continue
        for value in event.summary.value:
            number = _number(value)
            if number is not None and value.tag != "epoch":
                curves.setdefault(value.tag, []).append((float(event.step), number))
    return lost


def _payloads(content: bytes) -> Iterator[bytes]:
    position = 0
    while position + _LENGTH.size <= len(content):
        length, _ = _LENGTH.unpack_from(content, position)
        begin = position + _LENGTH.size
        position = begin + length + _CHECKSUM
        if position > len(content):
            return
        yield content[begin : begin + length]


def _number(value: Any) -> float | None:
    """A scalar: as a number of its own, or since TensorFlow 2 as a tensor of one."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind != "tensor" or value.tensor.dtype != _DT_FLOAT:
        return None
    if len(value.tensor.float_val) == 1:
        return float(value.tensor.float_val[0])
    content = value.tensor.tensor_content
    return float(_FLOAT.unpack(content)[0]) if len(content) == _FLOAT.size else None
