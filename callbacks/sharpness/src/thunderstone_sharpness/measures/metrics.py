"""The measures that are means over batches, as torchmetrics: updated batch by batch, reduced over processes.

Eigenvalues are not here: the eigenvalue of a mean is no mean of eigenvalues. The module is handed to `update`, so a
metric can be an attribute of the module it measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from thunderstone_sharpness.measures.adaptive import adaptive_sharpness, average_rises
from thunderstone_sharpness.measures.estimate import Estimate
from thunderstone_sharpness.measures.evaluation import Loss, size_of
from thunderstone_sharpness.measures.hessian import trace_draws


class AdaptiveSharpness(Metric):
    """Worst-case adaptive sharpness, the mean over the batches it was updated with; see `adaptive_sharpness`.

    Args:
        loss: ``loss(module, batch)``, the mean loss of a batch.
        rho: Radius, above 0.
        norm: ``"linf"`` or ``"l2"``.
        steps: Gradient steps of APGD.
        normalise_logits: As in `adaptive_sharpness`.

    >>> module = nn.Linear(2, 1, bias=False)
    >>> _ = module.weight.data.copy_(torch.tensor([[1.0, -2.0]]))
    >>> metric = AdaptiveSharpness(lambda m, x: m(x).sum(), rho=0.1)
    >>> metric.update(module, torch.tensor([[3.0, 1.0]]))
    >>> metric.update(module, torch.tensor([[1.0, 0.0]]))
    >>> metric.compute()
    tensor(0.3000)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor
    batches: Tensor

    def __init__(
        self,
        loss: Loss,
        rho: float,
        norm: str = "linf",
        steps: int = 20,
        normalise_logits: bool | str = False,
    ) -> None:
        super().__init__()
        self.loss, self.rho, self.norm, self.steps = loss, rho, norm, steps
        self.normalise_logits = normalise_logits
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("batches", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, module: nn.Module, batch: Any) -> None:
        """Measure one batch. Raises what `adaptive_sharpness` raises."""
        self.total += adaptive_sharpness(
            module,
            [batch],
            self.loss,
            rho=self.rho,
            norm=self.norm,
            steps=self.steps,
            normalise_logits=self.normalise_logits,
        )
        self.batches += 1

    def compute(self) -> Tensor:
        """The mean over batches, 0-d."""
        return self.total / self.batches


class _MeanOfDraws(Metric):
    """A mean over batches of something that is itself a mean over draws: every batch sees the same draws."""

    is_differentiable = False
    full_state_update = False
    totals: Tensor
    weight: Tensor

    def __init__(self, draws: int) -> None:
        super().__init__()
        self.draws = draws
        self.add_state("totals", torch.zeros(draws), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros(()), dist_reduce_fx="sum")

    def _add(self, draws: Sequence[float], weight: float) -> None:
        self.totals += weight * torch.tensor(draws, device=self.totals.device)
        self.weight += weight

    def compute(self) -> Tensor:
        """The mean over batches and draws, 0-d."""
        return (self.totals / self.weight).mean()

    def estimate(self) -> Estimate:
        """The mean with its standard error over draws, of this process's batches."""
        return Estimate.of((self.totals / self.weight).tolist())


class AverageSharpness(_MeanOfDraws):
    """Average-case adaptive sharpness over the batches it was updated with; see `average_sharpness`.

    Args:
        loss: ``loss(module, batch)``, the mean loss of a batch.
        rho: Standard deviation relative to each weight, above 0.
        draws: Number of perturbations.
        normalise_logits: As in `average_sharpness`.
    """

    higher_is_better = False

    def __init__(self, loss: Loss, rho: float, draws: int = 10, normalise_logits: bool | str = False) -> None:
        super().__init__(draws)
        self.loss, self.rho, self.normalise_logits = loss, rho, normalise_logits

    def update(self, module: nn.Module, batch: Any) -> None:
        """Measure one batch. Raises what `average_sharpness` raises."""
        rises = average_rises(
            "AverageSharpness", module, [batch], self.loss, self.rho, self.draws, self.normalise_logits, None
        )
        self._add(rises, 1.0)


class HessianTrace(_MeanOfDraws):
    """Trace of the Hessian of the mean loss over all examples it was updated with; see `hessian_trace`.

    Args:
        loss: ``loss(module, batch)``, the mean loss of a batch.
        draws: Number of random vectors.

    >>> metric = HessianTrace(lambda m, x: (m(x) ** 2).mean() / 2, draws=3)  # Hessian: x^T x / n
    >>> metric.update(nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    >>> metric.compute()
    tensor(5.)
    """

    def __init__(self, loss: Loss, draws: int = 30) -> None:
        super().__init__(draws)
        self.loss = loss

    def update(self, module: nn.Module, batch: Any) -> None:
        """Measure one batch; batches count by their number of examples. Raises what `hessian_trace` raises."""
        self._add(trace_draws("HessianTrace", module, [batch], self.loss, self.draws, None), size_of(batch))
