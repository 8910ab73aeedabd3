"""Modules whose training step keeps something: what a second pass must not be seen in."""

from __future__ import annotations

import copy
import random
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torchmetrics
from lightning.pytorch import LightningModule
from tiny_training import CLASSES, FEATURES, Classifier, perceptron
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint


class CentredByHand(nn.Module):
    """A normalisation nobody knows: statistics in a buffer, a plain tensor and a number, two of them rebound."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("spare", None)
        self.largest = torch.zeros(8)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        # The output depends on what earlier passes left, so that a second pass from another state shows.
        out = x - self.mean
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.3)
            self.largest = torch.maximum(self.largest, x.detach().abs().amax(0))
            self.spare = x.detach().mean()
            self.calls += 1
        return out * (1 + 0.01 * self.calls)


class Stochastic(nn.Module):
    """Draws from every global generator."""

    def forward(self, x: Tensor) -> Tensor:
        scale = random.random() + float(np.random.rand())
        return nn.functional.dropout(x + 0.1 * torch.randn_like(x), 0.5, self.training) * scale


class OwnGenerators(Classifier):
    """Draws from generators that belong to the module."""

    def __init__(self) -> None:
        super().__init__()
        self.torch_generator = torch.Generator().manual_seed(3)
        self.numpy_generator = np.random.default_rng(3)
        self.python_generator = random.Random(3)

    def loss(self, batch: Any) -> Tensor:
        noise = torch.rand(len(batch[0]), FEATURES, generator=self.torch_generator)
        scale = self.numpy_generator.random() + self.python_generator.random()
        return super().loss((batch[0] * noise * scale, batch[1]))


@dataclass
class Meter:
    """A statistic in an object of one's own."""

    total: float = 0.0
    history: list[float] = field(default_factory=list)
    running: Tensor = field(default_factory=lambda: torch.zeros(1))


class Bookkeeping(Classifier):
    """Numbers, lists, dicts, sets, arrays and objects in plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.losses: list[float] = []
        self.long = list(range(5000))
        self.seen: dict[str, Any] = {"rows": 0, "inner": {"labels": []}}
        self.labels: set[int] = set()
        self.recent: deque[float] = deque(maxlen=3)
        self.counter: Counter[int] = Counter()
        self.array = np.zeros(CLASSES)
        self.meter = Meter()
        self.pair = (torch.zeros(1), [])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        value = loss.item()
        self.count += 1
        self.losses.append(value)
        self.long.append(batch_idx)
        self.seen["rows"] += len(batch[0])
        self.seen["inner"]["labels"].extend(batch[1].tolist())
        self.labels.update(batch[1].tolist())
        self.recent.append(value)
        self.counter.update(batch[1].tolist())
        self.array[batch_idx % CLASSES] += value
        self.meter.total += value
        self.meter.history.append(value)
        self.meter.running += value
        self.pair[0].add_(value)
        self.pair[1].append(value)
        self.created_late = value
        return loss * (1 + 0.1 * self.meter.total)

    def kept(self) -> Any:
        """Everything in comparable form."""
        names = ["count", "losses", "long", "seen", "labels", "recent", "counter", "created_late"]
        plain = {name: getattr(self, name) for name in names}
        meter = (self.meter.total, self.meter.history, self.meter.running.tolist())
        return plain, meter, self.array.tolist(), (self.pair[0].tolist(), self.pair[1])


class CarriedHidden(LightningModule):
    """A recurrent network that carries its hidden state from batch to batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.cell = nn.GRUCell(FEATURES, 5)
        self.head = nn.Linear(5, CLASSES)
        self.hidden: Tensor | None = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        before = torch.zeros(len(batch[0]), 5) if self.hidden is None else self.hidden.detach()
        self.hidden = self.cell(batch[0], before)
        return nn.functional.cross_entropy(self.head(self.hidden), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class MomentumEncoder(Classifier):
    """An average of the weights, moved inside the training step, and a queue of its outputs (as in MoCo)."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = copy.deepcopy(self.net).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(8, CLASSES))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 0.2)
            keys = self.slow(batch[0])
        loss = self.loss(batch) + (self(batch[0]) - keys).square().mean() + (self.queue.mean() - 1).square()
        with torch.no_grad():
            self.queue[self.pointer] = keys[0]
            self.pointer.add_(1).remainder_(8)
        return loss


class HiddenModule(Classifier):
    """A network kept out of `parameters()` in a list, in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.friends = [perceptron(nn.BatchNorm1d(8))]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            target = self.friends[0](batch[0])
        return self.loss(batch) + (self(batch[0]) - target).square().mean()


class NormalisedPrototypes(Classifier):
    """Trained weights put back on a sphere at the start of every step (as in SwAV)."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            weight = self.net[-1].weight
            weight.copy_(1.1 * nn.functional.normalize(weight))
        return self.loss(batch)


class Inner(LightningModule):
    """A LightningModule that is part of another."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(nn.BatchNorm1d(8), nn.Dropout(0.3))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x)


class Checkpointed(nn.Module):
    """Activations of the inner network are computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = perceptron(nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


class Metrics(Classifier):
    """torchmetrics objects used in every way: forward, update, in a collection, with a list state."""

    def __init__(self) -> None:
        super().__init__()
        task: dict[str, Any] = {"task": "multiclass", "num_classes": CLASSES}
        self.accuracy = torchmetrics.Accuracy(**task)
        self.mean = torchmetrics.MeanMetric()
        self.collection = torchmetrics.MetricCollection(
            [torchmetrics.Precision(**task), torchmetrics.Recall(**task), torchmetrics.ConfusionMatrix(**task)]
        )
        self.auroc = torchmetrics.AUROC(**task)  # keeps every prediction in a list
        self.batch_values: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch[0])
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.batch_values.append(float(self.accuracy(logits, batch[1])))
        self.mean.update(loss)
        self.collection.update(logits, batch[1])
        self.auroc.update(logits.softmax(-1), batch[1])
        return loss

    def values(self) -> dict[str, Any]:
        """What every metric computes, and how often each was updated."""
        collection = {name: value.tolist() for name, value in self.collection.compute().items()}
        counts = [metric.update_count for metric in (self.accuracy, self.mean, self.auroc, *self.collection.values())]
        single = [metric.compute().item() for metric in (self.accuracy, self.mean, self.auroc)]
        return {"batch": self.batch_values, "single": single, "collection": collection, "counts": counts}


def _classifier(*extra: nn.Module) -> Classifier:
    return Classifier(perceptron(*extra))


def _spectral() -> Classifier:
    net = perceptron()
    net[0] = parametrizations.spectral_norm(net[0])
    return Classifier(net)


def _shared_twice() -> Classifier:
    torch.manual_seed(1)
    middle = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), CentredByHand())
    return _classifier(middle, nn.Tanh(), middle)


MODULES = OrderedDict(
    batch_norm=lambda: _classifier(nn.BatchNorm1d(8)),
    cumulative_batch_norm=lambda: _classifier(nn.BatchNorm1d(8, momentum=None)),
    still_batch_norm=lambda: _classifier(nn.BatchNorm1d(8, momentum=0.0)),
    group_norm=lambda: _classifier(nn.GroupNorm(2, 8)),
    instance_norm=lambda: _classifier(
        nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()
    ),
    own_norm=lambda: _classifier(CentredByHand()),
    spectral_norm=_spectral,
    random_draws=lambda: _classifier(Stochastic()),
    own_generators=OwnGenerators,
    bookkeeping=Bookkeeping,
    carried_hidden=CarriedHidden,
    momentum_encoder=MomentumEncoder,
    hidden_module=HiddenModule,
    nested=lambda: Classifier(Inner()),
    checkpointed=lambda: Classifier(Checkpointed()),
    metrics=Metrics,
    shared_twice=_shared_twice,
)
