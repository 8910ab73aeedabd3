"""Monte-Carlo means with less variance: the mean of random draws, corrected by functions whose mean is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.arguments import finite, flag
from thunderstone_estimators.coefficients import FITS, fitted_coefficients

WHO = "control_variate"


@dataclass(frozen=True)
class ControlVariateEstimate:
    """What `control_variate` found. Leading dimensions (``...``) are those of the batch; everything is float64.

    Attributes:
        estimate: The corrected mean, shape (...), with its graph.
        gamma: The coefficients, shape (...) for one variate and (..., k) for several. With ``fit="cross"`` and
            ``fit="loo"`` the mean of those that were used.
        variance_before: Estimated variance of the plain mean, shape (...). Zero for one sample: nothing is known.
        variance_after: The same of `estimate`, with the degrees of freedom that fitting used up taken off.
        correlation: Between values and variate, in [-1, 1]; for several variates the multiple correlation, in [0, 1].
        gain: ``variance_before / variance_after``: how many times more samples the plain mean would need. 1 where
            there was no variance to begin with, infinite where none is left.
    """

    estimate: Tensor
    gamma: Tensor
    variance_before: Tensor
    variance_after: Tensor
    correlation: Tensor
    gain: Tensor


def control_variate(
    values: Tensor,
    variates: Tensor,
    means: Tensor | float,
    weights: Tensor | None = None,
    fit: str | float | Tensor = "ols",
    detach: bool = False,
    *,
    ridge: float = 1e-10,
) -> ControlVariateEstimate:
    r"""Estimate the mean of `values` with the help of `variates` whose means are known.

    .. math:: \hat\mu = \sum_i w_i \left(f_i - \gamma^\top (C_i - \mathbb{E}C)\right)

    Values and variates are both centred for the fit (least squares with an intercept), so that a variate that equals
    the values up to a constant removes all variance. Variates are standardised before they are fitted together.

    Args:
        values: f, floating point, shape (..., n): n draws.
        variates: C of the same draws, shape (..., n) for one variate, (..., n, k) for k of them. One more dimension
            than `values` means several. Leading dimensions broadcast.
        means: E C, exact: a number or a tensor of shape (...) for one variate, (..., k) for several.
        weights: w, at least 0 and summing to 1 over the draws, shape (..., n); None for ``1 / n`` each.
        fit: Where gamma comes from. ``"ols"``: least squares on the same draws, which biases a little (O(1/n)).
            ``"cross"``: each half of the draws (even, odd) is corrected with the other's, without bias for
            independent draws. ``"loo"``: each draw is corrected with the fit to all others, without bias and with
            nearly all of the data. A number, or a tensor of shape (..., k): gamma itself.
        detach: Keep gamma out of the graph. The gradient is then that of ``f - gamma C`` at a fixed gamma; otherwise it
            is the exact derivative of the estimate. Variates that do not depend on what is differentiated (functions of
            the draws alone) reduce the variance of a gradient only with ``detach=False``.
        ridge: Added to the diagonal of the variates' correlation matrix, at least 0: a relative ridge.

    Returns:
        The estimate and what is known about it. With one draw, or two and one variate, there is nothing to fit and
        gamma is 0; it is 0 too for a variate without variance.

    Raises:
        ArgumentError: Shapes do not fit, something is not finite or not floating point, weights are no weights, or
            there are too few draws for this many variates.

    Example:
        >>> values = torch.tensor([3.0, 5.0, 4.0, 8.0])
        >>> result = control_variate(values, values - 4, means=0.0)
        >>> round(result.gamma.item(), 6), round(result.estimate.item(), 6)
        (1.0, 4.0)
    """
    found = _corrected(values, variates, means, weights, fit, detach, ridge)
    f, c, w, gamma, several = found.f, found.c, found.w, found.gamma, found.several
    count, number = c.shape[-2:]
    # A common gamma was fitted to the very residuals it is judged by.
    freedom = number if isinstance(fit, str) and fit == "ols" and count >= number + 2 else 0
    with torch.no_grad():
        plain, left = _variance_of_mean(f, w, 0), _variance_of_mean(found.values, w, freedom)
        correlation = _correlation(f, c, w, several, ridge)
        gain = torch.where(plain > 0, plain / left, torch.ones_like(plain))
        mean_gamma = gamma.squeeze(-2) if gamma.shape[-2] == 1 else (w.unsqueeze(-1) * gamma).sum(-2)
    return ControlVariateEstimate(
        found.estimate, mean_gamma if several else mean_gamma.squeeze(-1), plain, left, correlation, gain
    )


def corrected_mean(
    values: Tensor, variates: Tensor, means: Tensor | float, fit: str | float | Tensor = "ols", detach: bool = False
) -> Tensor:
    """``control_variate(...).estimate``, without working out how good it is: for inside of a training step."""
    return _corrected(values, variates, means, None, fit, detach, 1e-10).estimate


class _Corrected(NamedTuple):
    """Values, variates and weights in one layout, gamma of every draw, corrected values and their mean."""

    f: Tensor
    c: Tensor
    w: Tensor
    gamma: Tensor
    several: bool
    values: Tensor
    estimate: Tensor


def _corrected(
    values: Tensor,
    variates: Tensor,
    means: Tensor | float,
    weights: Tensor | None,
    fit: str | float | Tensor,
    detach: bool,
    ridge: float,
) -> _Corrected:
    f, c, mu, several = _arranged(values, variates, means)
    w = _checked_weights(weights, f)
    ridge = finite(WHO, "ridge", ridge, "use 1e-10, or more for nearly collinear variates", minimum=0)
    flag(WHO, "detach", detach, "True keeps gamma out of the graph")
    gamma = _coefficients(fit, f, c, w, ridge, several)
    if detach:
        gamma = gamma.detach()
    corrected = f - (gamma * (c - mu.unsqueeze(-2))).sum(-1)
    return _Corrected(f, c, w, gamma, several, corrected, (w * corrected).sum(-1))


def _arranged(values: Tensor, variates: Tensor, means: Tensor | float) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Values (..., n), variates (..., n, k) and means (..., k) in float64 with one batch shape; whether k was given."""
    for name, tensor in (("values", values), ("variates", variates)):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            got = f"a tensor of {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ArgumentError(WHO, name, got, "it must be a floating point tensor", "convert it with .float()")
    if values.dim() == 0 or values.shape[-1] == 0:
        raise ArgumentError(
            WHO, "values", tuple(values.shape), "there are no draws along the last dimension", "pass (..., n), n >= 1"
        )
    several = variates.dim() == values.dim() + 1
    f, c = values.double(), variates.double() if several else variates.double().unsqueeze(-1)
    if c.dim() != f.dim() + 1 or c.shape[-2] != f.shape[-1] or c.shape[-1] == 0:
        raise ArgumentError(
            WHO,
            "variates",
            tuple(variates.shape),
            f"it does not match values of shape {tuple(values.shape)}",
            "pass the variate of every draw, (..., n), or several, (..., n, k)",
        )
    mu = torch.as_tensor(means, dtype=torch.float64, device=f.device)
    mu = mu if several else mu.unsqueeze(-1)
    try:
        batch = torch.broadcast_shapes(f.shape[:-1], c.shape[:-2], mu.shape[:-1])
        mu = mu.expand(*batch, c.shape[-1])
    except RuntimeError:
        raise ArgumentError(
            WHO,
            "means",
            tuple(mu.shape if several else mu.shape[:-1]),
            f"it does not match variates of shape {tuple(variates.shape)}",
            "pass one mean a variate, (..., k), or a number for a single one",
        ) from None
    f, c = f.expand(*batch, f.shape[-1]), c.expand(*batch, *c.shape[-2:])
    for name, tensor in (("values", f), ("variates", c), ("means", mu)):
        if not bool(torch.isfinite(tensor).all()):
            raise ArgumentError(WHO, name, "NaN or infinite", "every entry must be finite", "look where it is computed")
    return f, c, mu, several


def _checked_weights(weights: Tensor | None, f: Tensor) -> Tensor:
    if weights is None:
        return torch.full_like(f, 1 / f.shape[-1], requires_grad=False)
    hint = "divide non-negative weights by their sum over the last dimension"
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        raise ArgumentError(WHO, "weights", type(weights).__name__, "it must be a floating point tensor", hint)
    w = weights.double()
    try:
        w = w.expand_as(f)
    except RuntimeError:
        raise ArgumentError(
            WHO, "weights", tuple(weights.shape), f"there must be one a draw, {tuple(f.shape)}", hint
        ) from None
    total = w.sum(-1)
    if not bool(torch.isfinite(w).all()) or bool((w < 0).any()):
        raise ArgumentError(WHO, "weights", f"minimum {w.min().item():g}", "they must be finite and at least 0", hint)
    # As exact as a sum in the weights' own precision can be.
    tolerance = max(1e-6, w.shape[-1] * torch.finfo(weights.dtype).eps)
    if bool(((total - 1).abs() > tolerance).any()):
        raise ArgumentError(WHO, "weights", f"sum {total.flatten()[0].item():g}", "they must sum to 1", hint)
    return w


def _coefficients(fit: str | float | Tensor, f: Tensor, c: Tensor, w: Tensor, ridge: float, several: bool) -> Tensor:
    """gamma of every draw, (..., n, k) or (..., 1, k)."""
    count, number = c.shape[-2:]
    if isinstance(fit, str):
        if fit not in FITS:
            raise ArgumentError(WHO, "fit", fit, "there is no such way to fit", f"use {', '.join(FITS)} or a number")
        needed = FITS[fit].least(number)
        if count < needed:
            if number > 1:
                raise ArgumentError(
                    WHO,
                    "variates",
                    f"{number} of {count} draws",
                    f"fit={fit!r} needs at least {needed} draws for {number} variates",
                    "draw more, use fewer variates, or give gamma as a number",
                )
            return torch.zeros_like(c[..., :1, :])
        return fitted_coefficients(fit, f, c, w, ridge)
    if isinstance(fit, Tensor):
        try:
            gamma = (fit if several else fit.unsqueeze(-1)).to(c).expand(*c.shape[:-2], number)
        except RuntimeError:
            shape, hint = tuple(fit.shape), "pass a number, or one gamma a variate"
            raise ArgumentError(WHO, "fit", shape, f"there are {number} variates", hint) from None
        if not bool(torch.isfinite(gamma).all()):
            raise ArgumentError(WHO, "fit", fit, "every entry must be finite", "look where it is computed")
        return gamma.unsqueeze(-2)
    number_given = finite(WHO, "fit", fit, f"use {', '.join(FITS)} or a number")
    return torch.full_like(c[..., :1, :], number_given, requires_grad=False)


def _variance_of_mean(values: Tensor, w: Tensor, fitted: int) -> Tensor:
    concentration = w.square().sum(-1)
    centred = values - (w * values).sum(-1, keepdim=True)
    spread = _spread(centred, values, w)
    # 1 / concentration is the effective number of draws; what is left of it after the mean and the fit.
    freedom = 1 / concentration - 1 - fitted
    return torch.where(freedom > 0, spread / freedom.clamp(min=1e-300), torch.zeros_like(spread))


def _spread(centred: Tensor, values: Tensor, w: Tensor) -> Tensor:
    """Mean square of centred values; exactly 0 for what rounding leaves of a constant."""
    spread = (w * centred.square()).sum(-1)
    rounding = (4 * torch.finfo(values.dtype).eps * values.abs().amax(-1)).square()
    return torch.where(spread > rounding, spread, torch.zeros_like(spread))


def _correlation(f: Tensor, c: Tensor, w: Tensor, several: bool, ridge: float) -> Tensor:
    centred_f = f - (w * f).sum(-1, keepdim=True)
    if several and c.shape[-2] >= c.shape[-1] + 2:
        gamma = fitted_coefficients("ols", f, c, w, ridge)
        c = (gamma * c).sum(-1, keepdim=True)
    elif several:
        return torch.zeros_like(f[..., 0])
    centred_c = (c - (w.unsqueeze(-1) * c).sum(-2, keepdim=True)).squeeze(-1)
    covariance = (w * centred_f * centred_c).sum(-1)
    spread = _spread(centred_f, f, w) * _spread(centred_c, c.squeeze(-1), w)
    return torch.where(spread > 0, covariance / spread.clamp(min=1e-300).sqrt(), torch.zeros_like(spread)).clamp(-1, 1)
