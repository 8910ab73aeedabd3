"""Antithetic pairs of Bernoulli draws: ARM and DisARM."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from thunderstone.arguments import whole
from thunderstone_estimators.score_function.estimate import (
    Function,
    ScoreFunctionEstimate,
    bernoulli_logits,
    evaluated,
    through_logits,
)


class _Antithetic(nn.Module):
    """Pairs from one uniform each: ``b = 1[u > sigmoid(-phi)]`` and ``b~ = 1[u < sigmoid(phi)]``."""

    def __init__(self, num_samples: int = 1) -> None:
        super().__init__()
        self.num_samples = whole(type(self).__name__, "num_samples", num_samples, "use 1 or more")

    def forward(
        self, distribution: Distribution, function: Function, context: Tensor | None = None
    ) -> ScoreFunctionEstimate:
        """Estimate ``E_q f``.

        Args:
            distribution: q: Bernoulli, or Independent over Bernoulli for vectors.
            function: f, from draws (K, *batch, *event) to values (K, *batch). Called twice.
            context: Ignored.

        Returns:
            The estimate; its draws are the first of each pair, its values the means over the pairs.

        Raises:
            ArgumentError: The distribution is no Bernoulli, or f returns another shape or NaN.
        """
        who = type(self).__name__
        logits, batch = bernoulli_logits(who, distribution), distribution.batch_shape
        u = torch.rand(self.num_samples, *logits.shape, dtype=logits.dtype, device=logits.device)
        phi = logits.detach()
        first, second = (u > torch.sigmoid(-phi)).to(u), (u < torch.sigmoid(phi)).to(u)
        f_first, f_second = evaluated(who, function, first, batch), evaluated(who, function, second, batch)
        values = (f_first + f_second) / 2
        dims = len(distribution.event_shape)
        difference = (f_first - f_second).detach()[(..., *[None] * dims)]
        gradients = self._gradients(difference, u, first, second, phi)
        return ScoreFunctionEstimate(
            first, values.detach(), through_logits(values, logits, gradients, dims), values.new_zeros(())
        )

    def _gradients(self, difference: Tensor, u: Tensor, first: Tensor, second: Tensor, phi: Tensor) -> Tensor:
        """With respect to the logits, (K, *batch, *event)."""
        raise NotImplementedError


class ARM(_Antithetic):
    """``(f(1[u > sigmoid(-phi)]) - f(1[u < sigmoid(phi)])) (u - 1/2)``. Yin & Zhou 2019, arXiv 1807.11143.

    For Bernoulli variables. One draw costs two evaluations of f.

    Args:
        num_samples: K, pairs a call.

    Raises:
        ArgumentError: `num_samples` is below 1.
    """

    def _gradients(self, difference: Tensor, u: Tensor, first: Tensor, second: Tensor, phi: Tensor) -> Tensor:
        return difference * (u - 0.5)


class DisARM(_Antithetic):
    """ARM with the uniform integrated out: ``1/2 (f(b) - f(b~)) (-1)^b~ 1[b != b~] sigmoid(|phi|)``.

    Dong, Mnih & Tucker 2020, arXiv 2006.10680. For Bernoulli variables. One draw costs two evaluations of f.

    Args:
        num_samples: K, pairs a call.

    Raises:
        ArgumentError: `num_samples` is below 1.
    """

    def _gradients(self, difference: Tensor, u: Tensor, first: Tensor, second: Tensor, phi: Tensor) -> Tensor:
        # first - second is (-1)^second where the two differ, and 0 where they do not.
        return 0.5 * difference * (first - second) * torch.sigmoid(phi.abs())
