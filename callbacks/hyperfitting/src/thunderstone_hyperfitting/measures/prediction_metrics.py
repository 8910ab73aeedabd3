"""The measures of predictions as torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from thunderstone import ArgumentError
from thunderstone_hyperfitting.measures.predictions import counted_logits, entropies, favourites


class _MeanOverPredictions(Metric):
    """A mean over predictions."""

    is_differentiable = False
    full_state_update = False
    plot_lower_bound = 0.0
    total: Tensor
    predictions: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("predictions", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _values(self, logits: Tensor) -> Tensor:
        raise NotImplementedError

    def update(self, logits: Tensor, mask: Tensor | None = None, lengths: Tensor | None = None) -> None:
        """Take in logits (..., V), with a mask (...) or, for (N, L, V), lengths (N,) of what counts."""
        chosen = counted_logits(type(self).__name__, logits, mask, lengths, empty=True)
        self.total += self._values(chosen).sum().to(self.total.device)
        self.predictions += len(chosen)

    def compute(self) -> Tensor:
        """The mean over predictions, 0-d, or ArgumentError where there was none."""
        if not self.predictions:
            who = type(self).__name__
            raise ArgumentError(who, "logits", "nothing", "no prediction counts", "update it with at least one")
        return (self.total / self.predictions).to(torch.get_default_dtype())

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value or several: those passed, or the current one. Returns the figure and the axis."""
        return self._plot(val, ax)


class PredictionEntropy(_MeanOverPredictions):
    """Entropy of the predicted distributions, in nats, the mean over predictions; see `prediction_entropy`.

    ``update(logits, mask=None, lengths=None)`` takes logits (..., V); ``compute()`` returns 0-d.

    Args:
        kwargs: Of `torchmetrics.Metric`.

    >>> metric = PredictionEntropy()
    >>> metric.update(torch.zeros(3, 4))
    >>> metric.compute()
    tensor(1.3863)
    """

    higher_is_better = None

    def _values(self, logits: Tensor) -> Tensor:
        return entropies(logits)


class Top1Probability(_MeanOverPredictions):
    """Probability of the most probable token, the mean over predictions; see `top1_probability`.

    ``update(logits, mask=None, lengths=None)`` takes logits (..., V); ``compute()`` returns 0-d.

    Args:
        kwargs: Of `torchmetrics.Metric`.

    >>> metric = Top1Probability()
    >>> metric.update(torch.tensor([[0.0, 0.0], [3.0, -torch.inf]]))
    >>> metric.compute()
    tensor(0.7500)
    """

    higher_is_better = None
    plot_upper_bound = 1.0

    def _values(self, logits: Tensor) -> Tensor:
        return favourites(logits)
