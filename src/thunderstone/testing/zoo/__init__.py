"""Modules that look like users': small, fast, seeded, and each with something a method trips over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule

from thunderstone.testing.zoo import data
from thunderstone.testing.zoo.cnn import CNN
from thunderstone.testing.zoo.dict_output import DictOutput
from thunderstone.testing.zoo.groups import Groups
from thunderstone.testing.zoo.lstm import LSTM
from thunderstone.testing.zoo.metrics import Metrics
from thunderstone.testing.zoo.mlp import MLP
from thunderstone.testing.zoo.stream import Stream
from thunderstone.testing.zoo.transformer import Transformer

__all__ = ["CASES", "CNN", "LSTM", "MLP", "Case", "DictOutput", "Groups", "Metrics", "Stream", "Transformer"]


@dataclass(frozen=True)
class Case:
    """A module of the zoo with its data.

    Attributes:
        name: What messages call it.
        module: Builds the module; weights come from torch's global generator.
        loader: Builds the training loader of `data.BATCHES` batches.
        validation: Builds the validation loader, where the module validates.
    """

    name: str
    module: Callable[[], LightningModule]
    loader: Callable[[], Iterable[Any]]
    validation: Callable[[], Iterable[Any]] | None = None


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("mlp", MLP, data.augmented_loader, data.validation_loader),
        Case("cnn", CNN, data.image_loader),
        Case("transformer", Transformer, data.token_loader),
        Case("lstm", LSTM, data.series_loader),
        Case("dict_output", DictOutput, data.row_loader),
        Case("metrics", Metrics, data.row_loader),
        Case("groups", Groups, data.row_loader),
        Case("stream", Stream, data.stream_loader),
    )
}
"""The zoo, by name."""
