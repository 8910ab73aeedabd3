"""Clouds for every test of the family."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def cloud() -> Callable[..., Tensor]:
    """Gaussian points, the same for a seed in every precision."""

    def make(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)

    return make


@pytest.fixture
def masses() -> Callable[..., Tensor]:
    """Random weights that sum to 1."""

    def make(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        raw = torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.05
        return (raw / raw.sum(-1, keepdim=True)).to(dtype)

    return make
