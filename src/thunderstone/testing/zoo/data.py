"""Small seeded data for the zoo. Nothing is downloaded and nothing drawn from a global generator at construction."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

FEATURES = 8
CLASSES = 3
BATCH_SIZE = 4
BATCHES = 7
"""Training batches in an epoch: no multiple of 3, so that a window of three micro-batches is ragged at the end."""
_VALIDATION_ROWS = 8
_VOCABULARY = 11
_LENGTH = 5


def vocabulary() -> int:
    """Number of distinct tokens in the token data."""
    return _VOCABULARY


def rows(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Gaussian rows of shape (count, FEATURES) and labels a fixed linear teacher gives them."""
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(FEATURES, CLASSES, generator=torch.Generator().manual_seed(99))
    inputs = torch.randn(count, FEATURES, generator=generator)
    return inputs, (inputs @ teacher).argmax(dim=1)


class AugmentedRows(Dataset[tuple[Tensor, Tensor]]):
    """Rows with noise from each of the global generators, as augmentation pipelines draw it."""

    def __init__(self, count: int) -> None:
        self.inputs, self.labels = rows(count)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        shift = random.gauss(0.0, 0.01) + float(np.random.normal(0.0, 0.01))
        return self.inputs[index] + shift + 0.01 * torch.randn(FEATURES), self.labels[index]


class RowStream(IterableDataset[tuple[Tensor, Tensor]]):
    """Rows one after the other; nobody knows how many there are before they end."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, labels = rows(BATCHES * BATCH_SIZE)
        yield from zip(inputs, labels, strict=True)


def row_loader() -> DataLoader[tuple[Tensor, ...]]:
    """Shuffled batches of plain rows."""
    return DataLoader(TensorDataset(*rows(BATCHES * BATCH_SIZE)), batch_size=BATCH_SIZE, shuffle=True)


def augmented_loader() -> DataLoader[tuple[Tensor, Tensor]]:
    """Shuffled batches of augmented rows."""
    return DataLoader(AugmentedRows(BATCHES * BATCH_SIZE), batch_size=BATCH_SIZE, shuffle=True)


def stream_loader() -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of a stream without a length."""
    return DataLoader(RowStream(), batch_size=BATCH_SIZE)


def validation_loader() -> DataLoader[tuple[Tensor, ...]]:
    """Rows the training never sees, in order."""
    return DataLoader(TensorDataset(*rows(_VALIDATION_ROWS, seed=2)), batch_size=BATCH_SIZE)


def image_loader() -> DataLoader[tuple[Tensor, ...]]:
    """Images of shape (1, 6, 6); the class is the third that is brightest."""
    images = torch.rand(BATCHES * BATCH_SIZE, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    labels = images.view(-1, CLASSES, 12).sum(dim=2).argmax(dim=1)
    return DataLoader(TensorDataset(images, labels), batch_size=BATCH_SIZE, shuffle=True)


def token_loader() -> DataLoader[tuple[Tensor, ...]]:
    """Sequences of tokens, shape (length,), that count upwards from a random start."""
    starts = torch.randint(_VOCABULARY, (BATCHES * BATCH_SIZE, 1), generator=torch.Generator().manual_seed(4))
    tokens = (starts + torch.arange(_LENGTH + 1)) % _VOCABULARY
    return DataLoader(TensorDataset(tokens), batch_size=BATCH_SIZE, shuffle=True)


def series_loader() -> DataLoader[tuple[Tensor, ...]]:
    """Noisy sines of shape (length, 1) and their next value, shape (1,)."""
    phase = 6.0 * torch.rand(BATCHES * BATCH_SIZE, 1, generator=torch.Generator().manual_seed(5))
    wave = torch.sin(phase + 0.5 * torch.arange(_LENGTH + 1))
    return DataLoader(TensorDataset(wave[:, :-1, None], wave[:, -1:]), batch_size=BATCH_SIZE, shuffle=True)
