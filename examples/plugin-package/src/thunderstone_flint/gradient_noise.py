"""Gaussian noise on the gradient."""

from __future__ import annotations

import hashlib
from typing import ClassVar

import torch
from thunderstone import GradientStep, Method, UnsupportedSettingError, hookimpl
from thunderstone.arguments import finite, whole
from torch import Tensor

_SHARDED = "each process would draw the same noise for its own part of a parameter"


def standard_deviation(update: int, eta: float, gamma: float) -> float:
    """``sqrt(eta / (1 + t)^gamma)`` at update `t`, from 0. Neelakantan et al. 2015, arXiv 1511.06807, section 3."""
    return float((eta / (1 + update) ** gamma) ** 0.5)


def standard_normal(like: Tensor, seed: int, update: int, position: int) -> Tensor:
    """Numbers of mean 0 and variance 1 that depend on nothing but the arguments: the same on every replica of a
    data-parallel run, and after a resume.

    Args:
        like: Gives shape, type and device.
        seed: The run's.
        update: Number of the update.
        position: Number of the parameter.
    """
    digest = hashlib.blake2b(f"{seed}/{update}/{position}".encode(), digest_size=8).digest()
    generator = torch.Generator(like.device).manual_seed(int.from_bytes(digest, "big"))
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


class GradientNoise(Method):
    """Adds noise to the gradient that fades as training goes on.

    Every number of the gradient gets an independent normal one of variance ``eta / (1 + t)^gamma`` at update ``t``.
    Neelakantan et al. 2015, arXiv 1511.06807, section 3. The noise is added last, behind what other methods make of the
    gradient, and before clipping. It is drawn from a generator of its own: the module's random numbers are those of a
    run without the method. Cost: one random number a parameter and update.

    Args:
        eta: Variance at the first update, 0 or more; 0 switches the method off. The paper chooses among 0.01, 0.3
            and 1.
        gamma: How fast it fades, 0 or more; 0 keeps it as it is. The paper uses 0.55.
        seed: Of the noise, 0 or more.

    Raises:
        ArgumentError: An argument is out of range.
        UnsupportedSettingError: A gradient is sparse.
    """

    name: ClassVar[str] = "gradient_noise"
    unsupported_strategies: ClassVar[dict[str, str]] = {"FSDPStrategy": _SHARDED, "ModelParallelStrategy": _SHARDED}

    def __init__(self, eta: float = 0.01, gamma: float = 0.55, seed: int = 0) -> None:
        who = type(self).__name__
        self.eta = finite(who, "eta", eta, "the paper uses 0.01 to 1; 0 switches it off", minimum=0)
        self.gamma = finite(who, "gamma", gamma, "the paper uses 0.55", minimum=0)
        self.seed = whole(who, "seed", seed, "any number from 0 on", minimum=0)

    @hookimpl(trylast=True)
    def transform_gradients(self, step: GradientStep) -> None:
        """Add the noise of this update."""
        if self.eta == 0:
            return
        sigma = standard_deviation(step.index, self.eta, self.gamma)
        # Under a GradScaler gradients are multiplied by its scale, and are divided by it behind this hook.
        scale = sigma * step.loss_scale
        noisy: list[Tensor | None] = []
        for position, gradient in enumerate(step.gradients):
            if gradient is None:
                noisy.append(None)
                continue
            if gradient.is_sparse:
                raise UnsupportedSettingError(
                    type(self).__name__,
                    f"the sparse gradient of {step.names[position]}",
                    "noise has no zeros to leave out",
                    "build the embedding with sparse=False",
                )
            noisy.append(gradient + scale * standard_normal(gradient, self.seed, step.index, position))
        step.gradients = noisy
        self.record("standard_deviation", sigma)
