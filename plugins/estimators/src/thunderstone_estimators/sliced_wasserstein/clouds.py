"""Two weighted point clouds as the sliced distances take them: checked, in one batch layout, with their moments."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from thunderstone import ArgumentError


class CloudPair:
    """A batch of pairs of weighted point clouds.

    Attributes:
        x: Points of the first cloud, (B, N, D) or (1, N, D), float32 or float64, with their graph.
        y: Points of the second, (B, M, D) or (1, M, D).
        a: Weights of x, (B, N) or (1, N), summing to 1; None for 1/N each.
        b: Weights of y, likewise.
        batched: The clouds came with a batch dimension.
        p: Order of the distance.

    Differences of means up to `rounding`, relative to the points, count as none.
    """

    def __init__(
        self, x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None, p: float, batched: bool, rounding: float
    ) -> None:
        self.x, self.y, self.a, self.b, self.p, self.batched = x, y, a, b, p, batched
        self._rounding = rounding

    @property
    def dimension(self) -> int:
        """D."""
        return self.x.shape[-1]

    @cached_property
    def means(self) -> tuple[Tensor, Tensor]:
        """Weighted means, float64, (B, D) each."""
        return _mean(self.x, self.a), _mean(self.y, self.b)

    @cached_property
    def delta(self) -> Tensor:
        """Difference of the means, float64, (B, D); exactly zero where it is no more than the points' own rounding.

        Clouds that were centred in float32 differ by rounding, and the direction of that difference is noise with an
        enormous gradient.
        """
        first, second = self.means
        delta = first - second
        with torch.no_grad():
            size = (first.square() + _total_variance(self.x, self.a, first).unsqueeze(-1)).sum(-1)
            other = (second.square() + _total_variance(self.y, self.b, second).unsqueeze(-1)).sum(-1)
            noise = delta.square().sum(-1) <= (4 * self._rounding) ** 2 * torch.maximum(size, other)
        return torch.where(noise.unsqueeze(-1), torch.zeros_like(delta), delta)

    @cached_property
    def total_variances(self) -> tuple[Tensor, Tensor]:
        """Traces of the (1/n) covariances, float64, (B,) each."""
        return _total_variance(self.x, self.a, self.means[0]), _total_variance(self.y, self.b, self.means[1])

    @cached_property
    def covariances(self) -> tuple[Tensor, Tensor]:
        """The (1/n) covariances, float64, (B, D, D) each."""
        return _covariance(self.x, self.a, self.means[0]), _covariance(self.y, self.b, self.means[1])

    def projected_variances(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Variance of both clouds along each direction (L, D), float64, (B, L) each."""
        if self.dimension <= len(directions):
            first, second = (((directions @ matrix) * directions).sum(-1) for matrix in self.covariances)
            # A quadratic form may fall below zero by rounding where the cloud is flat.
            return first.clamp(min=0), second.clamp(min=0)
        return (
            _variance_along(directions, self.x, self.a, self.means[0]),
            _variance_along(directions, self.y, self.b, self.means[1]),
        )


def _mean(points: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return points.mean(-2, dtype=torch.float64)
    return (weights.double().unsqueeze(-2) @ points.double()).squeeze(-2)


def _total_variance(points: Tensor, weights: Tensor | None, mean: Tensor) -> Tensor:
    squares = (points.double() - mean.unsqueeze(-2)).square().sum(-1)
    return squares.mean(-1) if weights is None else (weights.double() * squares).sum(-1)


def _covariance(points: Tensor, weights: Tensor | None, mean: Tensor) -> Tensor:
    centred = points.double() - mean.unsqueeze(-2)
    weighted = centred / points.shape[-2] if weights is None else centred * weights.double().unsqueeze(-1)
    return weighted.mT @ centred


def _variance_along(directions: Tensor, points: Tensor, weights: Tensor | None, mean: Tensor) -> Tensor:
    squares = (directions @ (points.double() - mean.unsqueeze(-2)).mT).square()
    return squares.mean(-1) if weights is None else (squares * weights.double().unsqueeze(-2)).sum(-1)


def checked_clouds(
    who: str, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None, p: float = 2
) -> CloudPair:
    """Check two clouds and their weights and bring them into one layout.

    Args:
        who: The function to name in messages.
        x: (N, D) or (B, N, D), floating point.
        y: (M, D) or (B, M, D). A cloud without batch dimension is compared with every cloud of the other batch.
        a: (N,) or (B, N), at least 0, summing to 1; None for uniform.
        b: (M,) or (B, M), likewise.
        p: Order of the distance, kept for variates that depend on it.

    Raises:
        ArgumentError: Anything does not fit; the message names it.
    """
    for name, cloud in (("x", x), ("y", y)):
        if not isinstance(cloud, Tensor) or not cloud.is_floating_point():
            got = f"a tensor of {cloud.dtype}" if isinstance(cloud, Tensor) else type(cloud).__name__
            raise ArgumentError(who, name, got, "points must be a floating point tensor", "convert it with .float()")
        if cloud.dim() not in (2, 3) or 0 in cloud.shape:
            hint = "pass (points, dimensions) or (batch, points, dimensions), none of them 0"
            raise ArgumentError(who, name, tuple(cloud.shape), "this is no point cloud", hint)
    if x.shape[-1] != y.shape[-1]:
        reason = f"x has {x.shape[-1]} dimensions and y has {y.shape[-1]}"
        raise ArgumentError(who, "y", tuple(y.shape), reason, "both clouds must live in one space")
    if x.device != y.device:
        raise ArgumentError(who, "y", f"on {y.device}", f"x is on {x.device}", "move both to one device")
    if x.dim() == y.dim() == 3 and x.shape[0] != y.shape[0]:
        reason = f"x is a batch of {x.shape[0]} clouds and y of {y.shape[0]}"
        raise ArgumentError(who, "y", tuple(y.shape), reason, "pass as many, or one cloud without a batch dimension")
    for name, cloud in (("x", x), ("y", y)):
        if not bool(torch.isfinite(cloud.detach()).all()):
            raise ArgumentError(who, name, "NaN or infinite points", "every coordinate must be finite", "remove them")
    dtype = torch.promote_types(x.dtype, y.dtype)
    rounding = max(torch.finfo(x.dtype).eps, torch.finfo(y.dtype).eps)
    # Squares of half-precision differences overflow, and sums of them lose everything.
    wide = torch.promote_types(dtype, torch.float32)
    batched = x.dim() == 3 or y.dim() == 3
    weights = [_checked_weights(who, name, w, cloud, wide) for name, w, cloud in (("a", a, x), ("b", b, y))]
    first, second = (cloud.to(wide) if cloud.dim() == 3 else cloud.to(wide).unsqueeze(0) for cloud in (x, y))
    return CloudPair(first, second, weights[0], weights[1], p, batched, rounding)


def _checked_weights(who: str, name: str, weights: Tensor | None, cloud: Tensor, dtype: torch.dtype) -> Tensor | None:
    if weights is None:
        return None
    hint = "divide non-negative weights by their sum, e.g. w / w.sum(-1, keepdim=True)"
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        got = f"a tensor of {weights.dtype}" if isinstance(weights, Tensor) else type(weights).__name__
        raise ArgumentError(who, name, got, "weights must be a floating point tensor", hint)
    if weights.shape not in {cloud.shape[:-1], cloud.shape[-2:-1]}:
        reason = f"there must be one weight a point of a cloud of shape {tuple(cloud.shape)}"
        raise ArgumentError(who, name, tuple(weights.shape), reason, "pass (points,) or (batch, points)")
    if weights.device != cloud.device:
        raise ArgumentError(who, name, f"on {weights.device}", f"the points are on {cloud.device}", "move it there")
    with torch.no_grad():
        if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
            reason = "weights must be finite and at least 0"
            raise ArgumentError(who, name, f"minimum {weights.min().item():g}", reason, hint)
        total = weights.double().sum(-1)
        # As exact as division in the weights' own precision can be.
        tolerance = max(1e-6, 4 * torch.finfo(weights.dtype).eps)
        if bool(((total - 1).abs() > tolerance).any()):
            worst = total.flatten()[(total - 1).abs().argmax()].item()
            raise ArgumentError(who, name, f"sum {worst:g}", "weights must sum to 1", hint)
    wide = weights.to(dtype)
    return wide if wide.dim() == 2 else wide.unsqueeze(0)
