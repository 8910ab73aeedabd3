"""REINFORCE and the estimators whose baseline is the other draws. For any distribution with a density."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributions import Distribution

from thunderstone.arguments import finite, whole
from thunderstone_estimators.score_function.estimate import (
    Function,
    ScoreFunctionEstimate,
    checked_distribution,
    evaluated,
    through_score,
)


class Reinforce(nn.Module):
    """``f(z) * grad log q(z)``. Williams 1992.

    Args:
        num_samples: K, independent draws a call.

    Raises:
        ArgumentError: `num_samples` is below 1.
    """

    def __init__(self, num_samples: int = 1) -> None:
        super().__init__()
        self.num_samples = whole(type(self).__name__, "num_samples", num_samples, "use 1 or more", minimum=1)

    def forward(
        self, distribution: Distribution, function: Function, context: Tensor | None = None
    ) -> ScoreFunctionEstimate:
        """Estimate ``E_q f``.

        Args:
            distribution: q, with parameters that require a gradient.
            function: f, from draws (K, *batch, *event) to values (K, *batch), lower being better or not. It may have
                parameters of its own.
            context: What a learned baseline sees; others ignore it.

        Raises:
            ArgumentError: The distribution is none this estimator takes, or f returns another shape or NaN.
        """
        draws, values, log_prob = _drawn(self, distribution, function, self.num_samples)
        return ScoreFunctionEstimate(
            draws, values.detach(), through_score(values, values, log_prob), values.new_zeros(())
        )


class LeaveOneOut(nn.Module):
    """``1/(K-1) sum_k (f_k - mean f) * grad log q(z_k)``: the mean of the other draws is each draw's baseline.

    Kool, van Hoof & Welling 2019; also known as RLOO.

    Args:
        num_samples: K, at least 2.

    Raises:
        ArgumentError: `num_samples` is below 2.
    """

    def __init__(self, num_samples: int = 2) -> None:
        super().__init__()
        hint = "the other draws are the baseline, so use 2 or more; Reinforce takes a single one"
        self.num_samples = whole("LeaveOneOut", "num_samples", num_samples, hint, minimum=2)

    def forward(
        self, distribution: Distribution, function: Function, context: Tensor | None = None
    ) -> ScoreFunctionEstimate:
        """Estimate ``E_q f``; arguments and errors as in `Reinforce.forward`."""
        draws, values, log_prob = _drawn(self, distribution, function, self.num_samples)
        others = (values.sum(0, keepdim=True) - values) / (self.num_samples - 1)
        terms = through_score(values, values - others, log_prob)
        return ScoreFunctionEstimate(draws, values.detach(), terms, values.new_zeros(()))


class VarGrad(nn.Module):
    """Gradient of half the variance, over draws, of the log ratio. Richter et al. 2020, arXiv 2010.10436.

    With ``entropy=1`` the objective is ``E_q [f(z) + log q(z)]``, f being a negative log joint: the evidence bound the
    method was made for. The entropy's own score, which has mean zero, is left out, so the gradient vanishes without
    variance where q is the posterior. With ``entropy=0`` the estimator is leave-one-out's.

    Args:
        num_samples: K, at least 2.
        entropy: Weight of log q in the objective. It is added here; f must not contain it.

    Raises:
        ArgumentError: `num_samples` is below 2, or `entropy` is no number.
    """

    def __init__(self, num_samples: int = 2, entropy: float = 0.0) -> None:
        super().__init__()
        hint = "a variance needs 2 draws or more; Reinforce takes a single one"
        self.num_samples = whole("VarGrad", "num_samples", num_samples, hint, minimum=2)
        self.entropy = finite("VarGrad", "entropy", entropy, "use 1 for an evidence bound, 0 for E f alone")

    def forward(
        self, distribution: Distribution, function: Function, context: Tensor | None = None
    ) -> ScoreFunctionEstimate:
        """Estimate ``E_q [f + entropy log q]``; arguments and errors as in `Reinforce.forward`."""
        draws, values, log_prob = _drawn(self, distribution, function, self.num_samples)
        total = values + self.entropy * log_prob.detach()
        ratio = total.detach() + log_prob - log_prob.detach()
        half_variance = (ratio - ratio.mean(0)).square() * (0.5 * self.num_samples / (self.num_samples - 1))
        terms = total + half_variance - half_variance.detach()
        return ScoreFunctionEstimate(draws, total.detach(), terms, values.new_zeros(()))


def _drawn(
    estimator: nn.Module, distribution: Distribution, function: Function, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws, f of them, and their log-probability."""
    who = type(estimator).__name__
    checked_distribution(who, distribution)
    draws = distribution.sample((count,))
    values = evaluated(who, function, draws, distribution.batch_shape)
    return draws, values, distribution.log_prob(draws)
