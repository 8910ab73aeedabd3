"""Control variates through a continuous relaxation of Bernoulli draws: REBAR and RELAX."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from thunderstone import ArgumentError
from thunderstone.arguments import finite, flag, whole
from thunderstone_estimators.score_function.estimate import (
    Function,
    ScoreFunctionEstimate,
    bernoulli_logits,
    evaluated,
    sum_event,
    through_logits,
)


class RELAX(nn.Module):
    """REINFORCE with a learned control variate on the relaxed draw. Grathwohl et al. 2018, arXiv 1711.00123.

    With ``z = phi + logit(u)``, ``b = 1[z > 0]`` and z~ drawn again given b:
    ``(f(b) - c(z~)) grad log q(b) + grad c(z) - grad c(z~)``. The parameters of c minimise the squared norm of this
    gradient, which is their `auxiliary` loss. For Bernoulli variables.

    Args:
        control: A module from z, (K, *batch, *event), to (K, *batch); part of c. None for the relaxed f alone.
        num_samples: K, independent draws a call.
        relaxed: Have ``eta f(sigmoid(z / temperature))`` in c too, with learned eta and temperature; f has to be
            differentiable and to take numbers between 0 and 1.
        temperature: Initial temperature, above 0.
        eta: Initial weight.

    Raises:
        ArgumentError: An argument is out of range, or c would be nothing at all.
    """

    def __init__(
        self,
        control: nn.Module | None,
        num_samples: int = 1,
        relaxed: bool = False,
        temperature: float = 0.5,
        eta: float = 1.0,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        self.num_samples = whole(who, "num_samples", num_samples, "use 1 or more")
        self.relaxed = flag(who, "relaxed", relaxed, "True puts the relaxed f into the control variate")
        if control is None and not relaxed:
            raise ArgumentError(
                who, "control", None, "there would be no control variate", "pass a module, or use REBAR"
            )
        self.control = control
        if relaxed:
            above = finite(who, "temperature", temperature, "use 0.5", above=0)
            self.log_temperature = nn.Parameter(torch.tensor(math.log(above)))
            self.eta = nn.Parameter(torch.tensor(finite(who, "eta", eta, "use 1")))

    def forward(
        self, distribution: Distribution, function: Function, context: Tensor | None = None
    ) -> ScoreFunctionEstimate:
        """Estimate ``E_q f``.

        Args:
            distribution: q: Bernoulli, or Independent over Bernoulli for vectors.
            function: f, from draws (K, *batch, *event) to values (K, *batch). With the relaxed f called three times.
            context: Ignored.

        Raises:
            ArgumentError: The distribution is no Bernoulli, or f or the control variate returns another shape or NaN.
        """
        who = type(self).__name__
        logits = bernoulli_logits(who, distribution)
        batch, dims = distribution.batch_shape, len(distribution.event_shape)
        with torch.enable_grad():
            # A leaf of its own for every draw, so that one backward pass gives the gradients of all.
            phi = logits.detach().expand(self.num_samples, *logits.shape).clone().requires_grad_()
            z, again, draws = _coupled(phi)
            values = evaluated(who, function, draws, batch)
            at_z, at_again = self._control(who, function, z, batch), self._control(who, function, again, batch)
            (path,) = torch.autograd.grad((at_z - at_again).sum(), phi, create_graph=True)
            signal = (values.detach() - at_again)[(..., *[None] * dims)]
            gradients = signal * (draws - torch.sigmoid(phi.detach())) + path
            auxiliary = self._auxiliary(sum_event(gradients.square(), dims).mean())
        return ScoreFunctionEstimate(draws, values.detach(), through_logits(values, logits, gradients, dims), auxiliary)

    def _control(self, who: str, function: Function, z: Tensor, batch: torch.Size) -> Tensor:
        total = z.new_zeros(len(z), *batch)
        if self.relaxed:
            soft = torch.sigmoid(z / self.log_temperature.exp())
            total = total + self.eta * evaluated(who, function, soft, batch)
        if self.control is not None:
            value = self.control(z)
            if not isinstance(value, Tensor) or value.shape != total.shape:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                reason = f"it must return one value a draw, {tuple(total.shape)}"
                raise ArgumentError(who, "control", got, reason, "squeeze its last dimension")
            total = total + value
        return total

    def _auxiliary(self, squared_norm: Tensor) -> Tensor:
        """The squared norm as a loss of this estimator's parameters alone: f's own are not to learn from it."""
        own = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not own:
            return squared_norm.detach()
        slopes = torch.autograd.grad(squared_norm, own, allow_unused=True)
        total = squared_norm.detach()
        for parameter, slope in zip(own, slopes, strict=True):
            if slope is not None:
                total = total + (slope.detach() * (parameter - parameter.detach())).sum()
        return total


class REBAR(RELAX):
    """RELAX with the relaxed f for the control variate. Tucker et al. 2017, arXiv 1703.07370.

    Args:
        num_samples: K, independent draws a call.
        temperature: Initial temperature of the relaxation, above 0; learned.
        eta: Initial weight of the control variate; learned.

    Raises:
        ArgumentError: An argument is out of range.
    """

    def __init__(self, num_samples: int = 1, temperature: float = 0.5, eta: float = 1.0) -> None:
        super().__init__(None, num_samples, relaxed=True, temperature=temperature, eta=eta)


def _coupled(phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z, another z given the same draw, both differentiable in phi, and the draw b = 1[z > 0]."""
    u, v = (torch.rand_like(phi).clamp(torch.finfo(phi.dtype).tiny, 1 - torch.finfo(phi.dtype).eps) for _ in range(2))
    z = phi + torch.logit(u)
    draws = (z.detach() > 0).to(phi)
    theta = torch.sigmoid(phi)
    # u given b: above 1 - theta where b is 1, below where it is 0.
    given = torch.where(draws > 0, 1 - theta + v * theta, v * (1 - theta))
    # Where theta rounds to 0 or 1 the interval is empty in floating point.
    given = given.clamp(torch.finfo(phi.dtype).tiny, 1 - torch.finfo(phi.dtype).eps)
    return z, phi + torch.logit(given), draws
