"""The coefficient that leaves the least variance, estimated while training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_DECAY = 0.9


class OptimalCoefficient:
    """``Cov(g_i(w), g_i(w~)) / Var(g_i(w~))`` for each layer, over its coordinates together.

    Yin et al. 2023, arXiv 2311.05589, who give it for each coordinate. Estimated from the batches since the snapshot,
    each weighing 0.9 of the next. A batch's own gradients do not enter the coefficient it is corrected with, which
    would bias the correction. Nothing is known at the snapshot, where both gradients are equal and the best
    coefficient is 1.

    Args:
        limit: The largest coefficient; the smallest is 0.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._covariance: Tensor | None = None
        self._variance: Tensor | None = None

    def reset(self) -> None:
        """Forget the batches: a new snapshot has been taken."""
        self._covariance = self._variance = None

    def current(self, layers: int, device: torch.device) -> Tensor:
        """The coefficients, shape (layers,), float64 where the device has it."""
        if self._covariance is None or self._variance is None:
            return torch.full((layers,), self.limit, device=device, dtype=_wide(device))
        known = self._variance > 0
        ratio = torch.where(known, self._covariance / torch.where(known, self._variance, 1.0), self.limit)
        return ratio.clamp(0.0, self.limit)

    @torch.no_grad()
    def update(
        self, gradients: Sequence[Tensor | None], full: Sequence[Tensor | None], deviation: Sequence[Tensor | None]
    ) -> None:
        """Take a batch into account.

        The full gradient at the snapshot is taken off `gradients`: it changes no covariance, since deviations have mean
        zero, and leaves less noise in its estimate.

        Args:
            gradients: The batch's gradients at the present weights, not multiplied by a loss scale.
            full: The full gradients at the snapshot, in the proportion of the batch's loss.
            deviation: See `deviations`; not multiplied by a loss scale either.
        """
        device = _device(gradients, deviation)
        moments: list[Tensor] = []
        for gradient, mean, miss in zip(gradients, full, deviation, strict=True):
            if miss is None or gradient is None:
                moments.append(torch.zeros(2, dtype=_wide(device), device=device))
                continue
            wide = miss.to(torch.float64 if miss.dtype == torch.float64 else torch.float32).flatten()
            distance = gradient if mean is None else gradient - mean
            moments.append(torch.stack([wide @ distance.flatten().to(wide), wide @ wide]).to(_wide(device)))
        found = torch.stack(moments)
        # An overflowed batch, whose update a GradScaler skips, says nothing.
        found = torch.where(found.isfinite().all(), found, torch.zeros_like(found))
        before = (
            torch.zeros_like(found)
            if self._covariance is None or self._variance is None
            else torch.stack([self._covariance, self._variance], dim=1)
        )
        covariance, variance = (_DECAY * before + (1 - _DECAY) * found).unbind(dim=1)
        # New tensors: whoever holds the earlier ones keeps what they were.
        self._covariance, self._variance = covariance.clone(), variance.clone()

    def state_dict(self) -> dict[str, Any]:
        """Tensors, or None before the first batch."""
        return {"covariance": self._covariance, "variance": self._variance}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """The inverse of `state_dict`."""
        covariance, variance = state["covariance"], state["variance"]
        self._covariance = None if covariance is None else covariance.to(device)
        self._variance = None if variance is None else variance.to(device)


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _device(*lists: Sequence[Tensor | None]) -> torch.device:
    return next((tensor.device for tensors in lists for tensor in tensors if tensor is not None), torch.device("cpu"))
