"""What TensorBoard's event files hold, read back."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from reporting_run import CONFIG, Regression, report_all, trainer_for
from tensorboardX.proto.event_pb2 import Event


def events(folder: Path) -> Iterator[tuple[int, Any]]:
    """Every value of the folder's event files with its step: TFRecords of a length, a checksum, data and a checksum."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, position = path.read_bytes(), 0
        while position < len(content):
            (length,) = struct.unpack_from("<Q", content, position)
            event = Event.FromString(content[position + 12 : position + 12 + length])
            position += length + 16
            for value in event.summary.value:
                yield event.step, value


def scalars_of(folder: Path, tag: str) -> list[tuple[int, float]]:
    """The values of one name with their steps."""
    found = [(step, value) for step, value in events(folder) if value.HasField("simple_value")]
    return [(step, value.simple_value) for step, value in found if value.tag == tag]


def test_scalars_and_figures_are_in_the_event_file_and_the_rest_beside_it(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    trainer_for(report_all(tmp_path / "tickets"), logger=logger, log_every_n_steps=4).fit(Regression())
    folder = Path(logger.log_dir)
    found = list(events(folder))

    scalars = [(step, value.tag, value.simple_value) for step, value in found if value.HasField("simple_value")]
    assert [(step, value) for step, tag, value in scalars if tag == "sharpened/norm"] == [
        (step, 1.5) for step in (3, 7, 11, 15)
    ]
    assert [(step, value) for step, tag, value in scalars if tag == "sharpened/flatness"] == [(7, 0.5), (15, 0.5)]
    assert {tag for _, tag, _ in scalars} == {"sharpened/norm", "sharpened/flatness", "epoch"}

    images = [(step, value) for step, value in found if value.HasField("image")]
    assert [(step, value.tag, value.image.width, value.image.height) for step, value in images] == [
        (7, "sharpened/spectrum", 100, 50),
        (15, "sharpened/spectrum", 100, 50),
    ]
    with Image.open(io.BytesIO(images[0][1].image.encoded_image_string)) as image:
        low, high = image.convert("L").getextrema()
    assert low < 128 < high, "a line on white"

    assert json.loads((folder / "config.json").read_text()) == CONFIG
    assert (folder / "tables/sharpened/layers_step15.csv").exists()
    assert (folder / "artifacts/sharpened/ticket_step15/ticket.pt").exists()
    assert not (tmp_path / "runs").exists()
