"""One small network for every kind of weight that can be masked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tiny_training import CLASSES, FEATURES, perceptron
from torch import Tensor, nn


class Flat(nn.Module):
    """Reshapes its input."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.shape)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 4, batch_first=True, num_layers=2, bidirectional=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.reshape(-1, 3, 2))[0][:, -1])


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.reshape(-1, 3, 2)
        return self.head(self.attention(steps, steps, steps)[0].flatten(1))


class Embedded(nn.Module):
    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4, sparse=sparse)
        self.head = nn.Linear(FEATURES * 4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x.abs().long().clamp(max=4)).flatten(1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, FEATURES)
        self.second = nn.Linear(FEATURES, FEATURES)
        self.second.weight = self.first.weight
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).tanh()).tanh())


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "conv1d": lambda: nn.Sequential(Flat(2, 3), nn.Conv1d(2, 4, 2), nn.Flatten(), nn.Linear(8, CLASSES)),
    "conv2d": lambda: nn.Sequential(Flat(1, 2, 3), nn.Conv2d(1, 4, 2), nn.Flatten(), nn.Linear(8, CLASSES)),
    "conv3d": lambda: nn.Sequential(Flat(1, 1, 2, 3), nn.Conv3d(1, 4, (1, 2, 2)), nn.Flatten(), nn.Linear(8, CLASSES)),
    "lstm": Recurrent,
    "attention": Attentive,
    "embedding": Embedded,
    "tied": Tied,
    "channels last": lambda: NETWORKS["conv2d"]().to(memory_format=torch.channels_last),
    "vectors": lambda: perceptron(nn.BatchNorm1d(8)),
}
