"""Mean and variance of gradients, added one at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class GradientMoments:
    """Welford's running mean and sums of squares of gradients, layer by layer. Holds one copy of them.

    "Variance" is the trace of the covariance matrix: the sum of the coordinates' variances.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: list[Tensor | None] = []
        self._squares: list[Tensor] = []

    @torch.no_grad()
    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Take a gradient in.

        Args:
            gradients: One tensor a layer, the same layers each time; None counts as zero.
        """
        if not self.count:
            self._mean = [None] * len(gradients)
            self._squares = [torch.zeros((), dtype=torch.float64)] * len(gradients)
        self.count += 1
        for layer, gradient in enumerate(gradients):
            mean = self._mean[layer]
            if gradient is None and mean is None:
                continue
            if mean is None:
                assert gradient is not None
                mean = torch.zeros_like(gradient, dtype=_wide(gradient.dtype))
            miss = -mean if gradient is None else gradient.to(mean.dtype) - mean
            mean = mean + miss / self.count
            rest = -mean if gradient is None else gradient.to(mean.dtype) - mean
            self._mean[layer] = mean
            self._squares[layer] = self._squares[layer] + torch.dot(miss.flatten(), rest.flatten()).cpu().double()

    def variance(self) -> Tensor:
        """Unbiased variance of each layer's gradient, float64 of shape (layers,). At least two gradients."""
        return torch.stack(self._squares) / (self.count - 1)

    def signal(self) -> Tensor:
        """Unbiased estimate of the squared norm of each layer's expected gradient, float64 of shape (layers,).

        The squared norm of the mean less what the mean's own variance adds to it; below zero where noise is all there
        is.
        """
        norms = [torch.zeros(()) if mean is None else mean.square().sum().cpu() for mean in self._mean]
        return torch.stack([norm.double() for norm in norms]) - self.variance() / self.count


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
