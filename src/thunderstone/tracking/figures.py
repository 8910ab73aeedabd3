"""Pictures of matplotlib figures, taken without pyplot and without touching the figure's canvas.

A method's figure may belong to a notebook or a window. `pyplot` would switch or start a backend for the whole process,
and TensorBoard's `add_figure` replaces the figure's canvas and closes it; a picture does neither.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_figure(value: object) -> bool:
    """Whether `value` is a matplotlib Figure. Doesn't import matplotlib: whoever made a figure has."""
    module = sys.modules.get("matplotlib.figure")
    return module is not None and isinstance(value, module.Figure)


_drawn: ContextVar[dict[str, bytes] | None] = ContextVar("_drawn", default=None)


@contextmanager
def drawn_once(pictures: dict[str, bytes]) -> Iterator[None]:
    """A block in which the first picture of a name stands for all later ones.

    For checks, which train a hundred times and look at no picture: drawing takes longer than such a training.

    Args:
        pictures: Those drawn so far, by name; new ones are added.
    """
    token = _drawn.set(pictures)
    try:
        yield
    finally:
        _drawn.reset(token)


def render(figure: Any, name: str) -> bytes:
    """The figure as a PNG, at its own size and resolution.

    Args:
        figure: A matplotlib Figure.
        name: What it is reported as, see `drawn_once`.
    """
    pictures = _drawn.get()
    if pictures is not None and name in pictures:
        return pictures[name]
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", backend="agg")
    png = buffer.getvalue()
    if pictures is not None:
        pictures[name] = png
    return png


def pixels(png: bytes) -> NDArray[np.uint8]:
    """A PNG as an array of shape (height, width, 3), red, green and blue from 0 to 255."""
    # matplotlib depends on pillow, so it is there wherever a figure is.
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.array(image.convert("RGB"), dtype=np.uint8)
