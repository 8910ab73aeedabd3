"""What every score-function estimator takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent

from thunderstone import ArgumentError

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ScoreFunctionEstimate:
    """An estimate of ``E_q f(z)`` whose gradient is an estimate of the gradient of it.

    Attributes:
        draws: z, shape (K, *batch, *event).
        values: f(z) without a graph, (K, *batch).
        terms: One term a draw, (K, *batch). The value is f(z); the gradient with respect to the distribution's
            parameters is the estimator's, and to f's own parameters that of f.
        auxiliary: 0-d: what the estimator's own parameters (a baseline's, a control variate's) minimise. It has no
            gradient for anything else, so it can be added to the loss.
        scale: What the gradient with respect to the distribution was divided by: 1 but for a normalising NVIL.
    """

    draws: Tensor
    values: Tensor
    terms: Tensor
    auxiliary: Tensor
    scale: float = 1.0

    @property
    def surrogate(self) -> Tensor:
        """To be minimised in place of ``E_q f``, shape (*batch): reduce it and call ``backward()``."""
        return self.terms.mean(0)

    @property
    def loss(self) -> Tensor:
        """Mean surrogate over the batch plus `auxiliary`: trains everything at once, 0-d."""
        return self.surrogate.mean() + self.auxiliary

    def per_sample_gradients(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        """The gradient of each draw, summed over the batch, for measuring; their mean is that of the surrogate.

        Of estimators whose draws are one another's baseline (LeaveOneOut, VarGrad) they are not independent: for their
        variance compare several estimates, or the entries of a batch.

        Args:
            parameters: Tensors that require a gradient.

        Returns:
            For each parameter, (K, *parameter.shape); zero where the surrogate does not depend on it.
        """
        wanted = list(parameters)
        rows: list[Sequence[Tensor]] = []
        for number in range(len(self.terms)):
            # Not by iterating over the tensor: each draw's backward pass would then stack a zero for every other draw.
            found = torch.autograd.grad(self.terms[number].sum(), wanted, retain_graph=True, allow_unused=True)
            rows.append([torch.zeros_like(p) if g is None else g for p, g in zip(wanted, found, strict=True)])
        return [torch.stack(column) for column in zip(*rows, strict=True)]


def evaluated(who: str, function: Function, draws: Tensor, batch: torch.Size) -> Tensor:
    """f of the draws, checked: shape (K, *batch), finite."""
    values = function(draws)
    expected = (len(draws), *batch)
    if not isinstance(values, Tensor) or tuple(values.shape) != expected:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        reason = f"for draws of shape {tuple(draws.shape)} it must return one value a draw, {expected}"
        raise ArgumentError(who, "function", got, reason, "wrap the distribution in Independent if a draw is a vector")
    if not bool(torch.isfinite(values.detach()).all()):
        reason = "it returned NaN or an infinite value for a draw"
        raise ArgumentError(who, "function", "not finite", reason, "bound the objective, e.g. clamp log-probabilities")
    return values


def checked_distribution(who: str, distribution: object) -> Distribution:
    """`distribution`, or ArgumentError."""
    if not isinstance(distribution, Distribution):
        hint = "pass one of torch.distributions, e.g. Bernoulli(logits=logits)"
        raise ArgumentError(who, "distribution", type(distribution).__name__, "it is no distribution", hint)
    return distribution


def sum_event(tensor: Tensor, dims: int) -> Tensor:
    """`tensor` summed over its last `dims` dimensions."""
    return tensor.sum(tuple(range(-dims, 0))) if dims else tensor


def bernoulli_logits(who: str, distribution: Distribution) -> Tensor:
    """Logits of a Bernoulli distribution, (*batch, *event), with their graph.

    Raises:
        ArgumentError: It is another distribution.
    """
    base: Distribution = checked_distribution(who, distribution)
    while isinstance(base, Independent):
        base = base.base_dist
    if not isinstance(base, Bernoulli):
        hint = "use LeaveOneOut, which takes any distribution, or Independent(Bernoulli(logits=...), 1) for vectors"
        raise ArgumentError(who, "distribution", type(base).__name__, "it works on Bernoulli variables only", hint)
    logits: Tensor = base.logits
    return logits


def through_logits(values: Tensor, logits: Tensor, gradients: Tensor, dims: int) -> Tensor:
    """Terms with f's value and own gradient, and `gradients` (K, *batch, *event) with respect to the logits."""
    return values + sum_event(gradients.detach() * (logits - logits.detach()), dims)


def through_score(values: Tensor, signal: Tensor, log_prob: Tensor) -> Tensor:
    """Terms with f's value and own gradient, and ``signal * score`` with respect to the distribution."""
    return values + signal.detach() * (log_prob - log_prob.detach())
