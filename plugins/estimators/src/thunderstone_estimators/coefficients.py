"""Fitting the coefficients of control variates: least squares with an intercept, standardised, and a relative ridge."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Eigenvalues of the correlation matrix below this part of the largest are those of variates that are sums of others.
COLLINEAR = 1e-9


class Moments(NamedTuple):
    """Centred values and standardised variates of weighted draws.

    Attributes:
        f: Centred values, (..., n).
        z: Centred variates of unit variance, (..., n, k); zero where a variate has no variance.
        scale: Their standard deviations, (..., k); 1 where a variate has no variance.
        inverse: Inverse of ``correlation + ridge * I``, (..., k, k).
    """

    f: Tensor
    z: Tensor
    scale: Tensor
    inverse: Tensor


def _moments(f: Tensor, c: Tensor, w: Tensor, ridge: float) -> Moments:
    v = w.unsqueeze(-1)
    centred_f = f - (w * f).sum(-1, keepdim=True)
    centred_c = c - (v * c).sum(-2, keepdim=True)
    variance = (v * centred_c.square()).sum(-2)
    # A constant leaves this much behind after its mean was taken off.
    rounding = (16 * torch.finfo(c.dtype).eps * c.detach().abs().amax(-2)).square()
    constant = variance <= rounding
    scale = torch.where(constant, torch.ones_like(variance), variance).sqrt()
    z = torch.where(constant.unsqueeze(-2), torch.zeros_like(c), centred_c) / scale.unsqueeze(-2)
    correlation = z.transpose(-1, -2) @ (v * z)
    identity = torch.eye(c.shape[-1], dtype=c.dtype, device=c.device)
    # Where a variate has no variance its row is zero: any diagonal gives it the coefficient 0.
    regular = correlation + torch.diag_embed(constant.to(c.dtype)) + ridge * identity
    # A pseudo-inverse, so that variates that are sums of one another share their coefficient. What a tiny ridge leaves
    # of a zero eigenvalue counts as zero: its inverse would magnify rounding, in the gradient above all.
    inverse = torch.linalg.pinv(regular, hermitian=True, rtol=COLLINEAR) if c.shape[-1] > 1 else regular.reciprocal()
    return Moments(centred_f, z, scale, inverse)


def _solved(moments: Moments, w: Tensor) -> Tensor:
    """Coefficients of the standardised variates, (..., k)."""
    covariance = ((w * moments.f).unsqueeze(-1) * moments.z).sum(-2)
    return (moments.inverse @ covariance.unsqueeze(-1)).squeeze(-1)


def ordinary_least_squares(f: Tensor, c: Tensor, w: Tensor, ridge: float) -> Tensor:
    """One gamma for all draws, (..., 1, k)."""
    moments = _moments(f, c, w, ridge)
    return (_solved(moments, w) / moments.scale).unsqueeze(-2)


def cross_fitted(f: Tensor, c: Tensor, w: Tensor, ridge: float) -> Tensor:
    """gamma of the odd draws for the even ones and the other way round, (..., n, k)."""
    even = torch.arange(f.shape[-1], device=f.device) % 2 == 0
    halves = []
    for half in (even, ~even):
        share = w[..., half]
        total = share.sum(-1, keepdim=True)
        # A half without weight corrects with an unweighted fit; what it corrects is the other half.
        share = torch.where(total > 0, share / total.clamp(min=1e-300), torch.full_like(share, 1 / share.shape[-1]))
        halves.append(ordinary_least_squares(f[..., half], c[..., half, :], share, ridge))
    return torch.where(even.unsqueeze(-1), halves[1], halves[0])


def leave_one_out(f: Tensor, c: Tensor, w: Tensor, ridge: float) -> Tensor:
    """For each draw, gamma of the fit to all others, (..., n, k).

    Not n fits: taking one row out of a least-squares fit changes its coefficients by
    ``inverse @ z_i * w_i e_i / (1 - h_i)``, with residual e_i and leverage h_i (Sherman-Morrison).
    """
    moments = _moments(f, c, w, ridge)
    slope = _solved(moments, w)
    residual = moments.f - (moments.z * slope.unsqueeze(-2)).sum(-1)
    direction = moments.z @ moments.inverse
    leverage = w * (1 + (direction * moments.z).sum(-1))
    step = w * residual / (1 - leverage).clamp(min=1e-12)
    return (slope.unsqueeze(-2) - direction * step.unsqueeze(-1)) / moments.scale.unsqueeze(-2)


class Fit(NamedTuple):
    """A way to fit, and the least number of draws it needs for k variates."""

    coefficients: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    least: Callable[[int], int]


FITS = {
    "ols": Fit(ordinary_least_squares, lambda k: k + 2),
    "cross": Fit(cross_fitted, lambda k: 2 * (k + 2)),
    "loo": Fit(leave_one_out, lambda k: k + 3),
}


def fitted_coefficients(fit: str, f: Tensor, c: Tensor, w: Tensor, ridge: float) -> Tensor:
    """gamma for every draw.

    Args:
        fit: A key of `FITS`.
        f: Values, float64, (..., n).
        c: Variates, float64, (..., n, k).
        w: Weights that sum to 1 over the draws, (..., n).
        ridge: Added to the diagonal of the variates' correlation matrix.

    Returns:
        (..., 1, k) or (..., n, k), to be broadcast against `c`.
    """
    return FITS[fit].coefficients(f, c, w, ridge)
