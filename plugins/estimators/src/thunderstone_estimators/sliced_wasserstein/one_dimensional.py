"""Wasserstein distances of projected clouds: sorted values where sizes agree, quantile functions where they do not."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from thunderstone_estimators.sliced_wasserstein.clouds import CloudPair
from thunderstone_estimators.sliced_wasserstein.sorting import sort_last, sorted_last


def projected_costs(clouds: CloudPair, directions: Tensor, chunk: int | None = None) -> Tensor:
    """W_p^p of the clouds' projections on each direction.

    Args:
        clouds: The pair, B clouds each.
        directions: (L, D), or (B, L, D) for directions of each pair's own; in the clouds' dtype.
        chunk: Directions at a time. Projections take O(B chunk (N + M)) memory then, in the backward pass too, where
            each chunk is projected and sorted once more. None takes all at once.

    Returns:
        (B, L) in the clouds' dtype.
    """
    # Autocast would project in half precision, and points that are close would coincide.
    with torch.autocast(clouds.x.device.type, enabled=False):
        if chunk is None or chunk >= directions.shape[-2]:
            return _costs(clouds.x, clouds.y, clouds.a, clouds.b, directions, clouds.p)
        pieces = []
        for part in directions.split(chunk, dim=-2):
            arguments = (clouds.x, clouds.y, clouds.a, clouds.b, part, clouds.p)
            if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in arguments):
                pieces.append(checkpoint(_costs, *arguments, use_reentrant=False, preserve_rng_state=False))
            else:
                pieces.append(_costs(*arguments))
        return torch.cat(pieces, -1)


def _costs(x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None, directions: Tensor, p: float) -> Tensor:
    # Points along the last dimension, where sorting is fastest.
    u, v = directions @ x.mT, directions @ y.mT
    if a is not None or b is not None:
        return _weighted(u, v, a, b, p)
    u, v = sorted_last(u), sorted_last(v)
    if u.shape[-1] == v.shape[-1]:
        return _power(u - v, p).mean(-1)
    first, second, widths = _common_grid(u.shape[-1], v.shape[-1])
    # `gather`, whose gradient is several times faster than that of indexing.
    first, second = first.to(u.device).expand(*u.shape[:-1], -1), second.to(v.device).expand(*v.shape[:-1], -1)
    gaps = u.gather(-1, first) - v.gather(-1, second)
    return _power(gaps, p) @ widths.to(u.device, u.dtype)


def _power(gaps: Tensor, p: float) -> Tensor:
    if p == 2:
        return gaps.square()
    # The gradient of abs is 0 at 0, and so is that of every power of it: finite where points coincide.
    return gaps.abs() if p == 1 else gaps.abs().pow(p)


@lru_cache(maxsize=16)
def _common_grid(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where quantile functions of n and of m equal masses are constant: the index in each, and the width.

    Exact: the breakpoints i/n and j/m are merged as the integers i m and j n.
    """
    ends = torch.unique(torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]))
    widths = torch.diff(ends, prepend=ends.new_zeros(1)).double() / (n * m)
    return (ends - 1) // m, (ends - 1) // n, widths


def _weighted(u: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, p: float) -> Tensor:
    u, ends_u = _quantiles(u, a)
    v, ends_v = _quantiles(v, b)
    batch = torch.broadcast_shapes(u.shape[:-1], v.shape[:-1])
    u, ends_u = u.expand(*batch, -1), ends_u.expand(*batch, -1).contiguous()
    v, ends_v = v.expand(*batch, -1), ends_v.expand(*batch, -1).contiguous()
    # Every interval of the common grid ends where one of the two functions steps: those of u, then those of v.
    return _intervals(u, ends_u, v, ends_v, p, right=False) + _intervals(v, ends_v, u, ends_u, p, right=True)


def _quantiles(values: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sorted values (B, L, N), and the cumulated weight at the end of each, (B, L, N) or broadcastable."""
    values, order = sort_last(values)
    count = values.shape[-1]
    if weights is None:
        ends = torch.arange(1, count + 1, device=values.device, dtype=torch.float64) / count
        return values, ends.to(values.dtype).view(1, 1, -1)
    if weights.shape[0] == 1:
        return values, weights[0][order].cumsum(-1)
    batch = torch.broadcast_shapes(values.shape[:1], weights.shape[:1])[0]
    order = order.expand(batch, -1, -1)
    share = weights.unsqueeze(-2).expand(batch, order.shape[-2], -1).gather(-1, order)
    return values, share.cumsum(-1)


def _intervals(u: Tensor, ends_u: Tensor, v: Tensor, ends_v: Tensor, p: float, right: bool) -> Tensor:
    """Sum over the grid's intervals that end where u steps; where both step, `right` decides whose interval it is."""
    # Of the value v has there, the index; the last one beyond the end, which rounding may place before that of u.
    index = torch.searchsorted(ends_v.detach(), ends_u.detach(), right=right)
    zero = torch.zeros_like(ends_u[..., :1])
    begin_u = torch.cat([zero, ends_u[..., :-1]], -1)
    begin_v = torch.cat([torch.zeros_like(ends_v[..., :1]), ends_v], -1).gather(-1, index)
    widths = ends_u - torch.maximum(begin_u, begin_v)
    gaps = u - v.gather(-1, index.clamp(max=v.shape[-1] - 1))
    return (widths * _power(gaps, p)).sum(-1)
