"""Random tensors shaped like the weights, drawn without touching any global random state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SEED = 0


def private(generator: torch.Generator | None) -> torch.Generator:
    """`generator`, or a new one on the CPU with a fixed seed: the same draws in every call and on every device."""
    return torch.Generator().manual_seed(SEED) if generator is None else generator


def normal(like: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Standard normal, parallel to `like`."""
    return [
        torch.randn(tensor.shape, generator=generator, dtype=_wide(tensor), device=generator.device).to(tensor)
        for tensor in like
    ]


def uniform(like: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Uniform on [-1, 1), parallel to `like`."""
    return [
        (2 * torch.rand(tensor.shape, generator=generator, dtype=_wide(tensor), device=generator.device) - 1).to(tensor)
        for tensor in like
    ]


def signs(like: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """-1 or 1 with equal probability (Rademacher), parallel to `like`."""
    return [
        (2 * torch.randint(0, 2, tensor.shape, generator=generator, device=generator.device) - 1).to(tensor)
        for tensor in like
    ]


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
