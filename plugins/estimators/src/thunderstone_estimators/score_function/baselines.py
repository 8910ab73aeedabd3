"""NVIL's learned baseline and MuProp's Taylor expansion."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from thunderstone import ArgumentError
from thunderstone.arguments import finite, flag, whole
from thunderstone_estimators.score_function.estimate import (
    Function,
    ScoreFunctionEstimate,
    checked_distribution,
    evaluated,
    sum_event,
    through_score,
)


class NVIL(nn.Module):
    """REINFORCE with a running mean, a learned baseline and, if wanted, a running scale. Mnih & Gregor 2014.

    The signal is ``(f(z) - b(context) - c) / max(1, sigma)``. Running mean c and variance sigma^2 are those of earlier
    calls: with the current draws in them the estimate would be biased. They are updated in training mode and are
    part of the state.

    Args:
        num_samples: K, independent draws a call.
        baseline: b, a module from `context` to (*batch); trained through `auxiliary`. None for the running mean alone.
        decay: Of the running moments, in [0, 1). The paper uses 0.8.
        normalize: Divide by ``max(1, sigma)`` as the paper does. The gradient's expectation is then divided by it too;
            the estimate says by how much (`scale`). Leave it off where estimators are compared.

    Raises:
        ArgumentError: An argument is out of range.
    """

    mean: Tensor
    variance: Tensor

    def __init__(
        self, num_samples: int = 1, baseline: nn.Module | None = None, decay: float = 0.8, normalize: bool = False
    ) -> None:
        super().__init__()
        self.num_samples = whole("NVIL", "num_samples", num_samples, "use 1 or more")
        self.baseline = baseline
        self.decay = finite("NVIL", "decay", decay, "the paper uses 0.8", minimum=0, below=1)
        self.normalize = flag("NVIL", "normalize", normalize, "True divides by the running scale")
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.zeros(()))

    def forward(
        self, distribution: Distribution, function: Function, context: Tensor | None = None
    ) -> ScoreFunctionEstimate:
        """Estimate ``E_q f``.

        Args:
            distribution: q, with parameters that require a gradient.
            function: f, from draws (K, *batch, *event) to values (K, *batch).
            context: What the baseline sees, e.g. the observation.

        Raises:
            ArgumentError: f or the baseline returns another shape or NaN, or the baseline has no context.
        """
        checked_distribution("NVIL", distribution)
        draws = distribution.sample((self.num_samples,))
        values = evaluated("NVIL", function, draws, distribution.batch_shape)
        predicted = self._predicted(context, values)
        known = values.detach()
        # Copies: the buffers are updated below, in place.
        mean, scale = self.mean.clone(), max(1.0, self.variance.sqrt().item()) if self.normalize else 1.0
        residual = known - predicted.detach()
        terms = through_score(values, (residual - mean) / scale, distribution.log_prob(draws))
        auxiliary = (known - mean - predicted).square().mean() if self.baseline is not None else known.new_zeros(())
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(residual.mean().to(self.mean), 1 - self.decay)
                self.variance.lerp_(residual.var(correction=0).to(self.variance), 1 - self.decay)
        return ScoreFunctionEstimate(draws, known, terms, auxiliary, scale)

    def _predicted(self, context: Tensor | None, values: Tensor) -> Tensor:
        if self.baseline is None:
            return values.new_zeros(values.shape[1:])
        if context is None:
            raise ArgumentError("NVIL", "context", None, "the baseline predicts f from it", "pass the observation")
        predicted = self.baseline(context.detach())
        if not isinstance(predicted, Tensor) or predicted.shape != values.shape[1:]:
            got = tuple(predicted.shape) if isinstance(predicted, Tensor) else type(predicted).__name__
            reason = f"it must return one value an element of the batch, {tuple(values.shape[1:])}"
            raise ArgumentError("NVIL", "baseline", got, reason, "squeeze its last dimension")
        return predicted


class MuProp(nn.Module):
    """REINFORCE with f's Taylor expansion around the mean for a control variate. Gu et al. 2016, arXiv 1511.05176.

    ``(f(z) - f(m) - f'(m).(z - m)) * grad log q(z) + f'(m).grad m`` with ``m = E_q z``. For distributions with a
    differentiable mean, and for f that takes that mean for a draw and is differentiable there.

    Args:
        num_samples: K, independent draws a call.

    Raises:
        ArgumentError: `num_samples` is below 1.
    """

    def __init__(self, num_samples: int = 1) -> None:
        super().__init__()
        self.num_samples = whole("MuProp", "num_samples", num_samples, "use 1 or more")

    def forward(
        self, distribution: Distribution, function: Function, context: Tensor | None = None
    ) -> ScoreFunctionEstimate:
        """Estimate ``E_q f``; arguments and errors as in `Reinforce.forward`.

        Raises:
            ArgumentError: Also where f is not differentiable at the mean, or the distribution has none.
        """
        checked_distribution("MuProp", distribution)
        draws = distribution.sample((self.num_samples,))
        values = evaluated("MuProp", function, draws, distribution.batch_shape)
        try:
            mean = distribution.mean
        except NotImplementedError:
            name = type(distribution).__name__
            raise ArgumentError("MuProp", "distribution", name, "it has no mean", "use LeaveOneOut") from None
        dims = len(distribution.event_shape)
        with torch.enable_grad():
            point = mean.detach().requires_grad_()
            at_mean = evaluated("MuProp", function, point.unsqueeze(0), distribution.batch_shape)[0]
            (slope,) = (
                torch.autograd.grad(at_mean.sum(), point, allow_unused=True) if at_mean.requires_grad else (None,)
            )
        if slope is None:
            reason = "its value at the mean has no gradient"
            raise ArgumentError("MuProp", "function", "not differentiable", reason, "use LeaveOneOut")
        expansion = at_mean.detach() + sum_event(slope * (draws - point.detach()), dims)
        terms = through_score(values, values - expansion, distribution.log_prob(draws))
        terms = terms + sum_event(slope * (mean - mean.detach()), dims)
        return ScoreFunctionEstimate(draws, values.detach(), terms, values.new_zeros(()))
