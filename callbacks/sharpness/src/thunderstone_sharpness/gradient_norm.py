"""Penalising the gradient norm."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from thunderstone import GradientStep, Method, UpdatePlan, hookimpl
from thunderstone.arguments import finite, flag
from thunderstone_sharpness.ascent import Ascent


def mixed_gradients(plain: list[Tensor | None], ascended: list[Tensor | None], alpha: float) -> list[Tensor | None]:
    """``(1 - alpha) g + alpha g_ascended``, tensor by tensor; a missing gradient counts as zero.

    Zhao et al. 2022, eq. 12: the gradient of ``L + lambda |grad L|`` to first order in r, with ``alpha = lambda / r``.

    Args:
        plain: Gradients at the weights; None where there is none. Not changed.
        ascended: Gradients at ``w + r g / |g|``, parallel to `plain`.
        alpha: Share of the ascended gradient.

    Returns:
        New tensors, parallel to `plain`; None where both are None.
    """
    mixed: list[Tensor | None] = []
    for g, g_ascended in zip(plain, ascended, strict=True):
        if g is None or g_ascended is None:
            only = g if g_ascended is None else g_ascended
            weight = 1 - alpha if g_ascended is None else alpha
            mixed.append(None if only is None else only * weight)
        else:
            # Not torch.lerp: its branches round differently on the two sides of one half.
            mixed.append(torch.add(g * (1 - alpha), g_ascended, alpha=alpha))
    return mixed


class GradientNorm(Method):
    """Descends on the loss plus a penalty on the norm of its gradient.

    The optimizer is given ``(1 - alpha) g + alpha g'`` with ``g`` the gradient of the accumulated batch at weights
    ``w`` and ``g'`` the gradient of the same batch at ``w + r g / |g|``: to first order the gradient of
    ``L + alpha r |grad L|``. Zhao et al. 2022, arXiv 2202.03599, algorithm 1. With alpha=1 it is SAM with rho=r, bit
    for bit; with alpha=0 it is switched off. Cost: a second forward and backward pass; the first gradients are kept.

    Args:
        r: Length of the step along the gradient at which the second gradient is taken, 0 or more. The paper uses 0.05
            to 0.1. A parameter group may carry its own under the key ``"rho"``.
        alpha: Share of the second gradient, lambda / r in the paper, 0 or more; 0.8 in the paper.
        sync: Under data parallelism, take the step along the gradient averaged over replicas; see `SAM`.

    Raises:
        ArgumentError: An argument is out of range.
    """

    name: ClassVar[str] = "gradient_norm"
    exclusive: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def __init__(self, r: float = 0.05, alpha: float = 0.8, sync: bool = False) -> None:
        who = type(self).__name__
        self.r = finite(who, "r", r, "the paper uses 0.05 to 0.1; 0 switches the method off", minimum=0)
        self.alpha = finite(who, "alpha", alpha, "the paper uses 0.8; 0 switches the method off", minimum=0)
        self.sync = flag(who, "sync", sync, "pass sync=True to step along the averaged gradient")
        self._ascent = Ascent(who, self.r, 0.0, "l2")

    @property
    def _acts(self) -> bool:
        return self.r > 0 and self.alpha > 0

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        """Have the batch recorded."""
        if self._acts:
            plan.request_recompute(local_gradients=not self.sync)

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        """Mix the gradient with the one a step further up."""
        if not self._acts:
            return
        if self.alpha == 1:
            with step.perturbed(self._ascent.delta(step, step.take_gradients(), self)):
                gradients = step.recompute()
            step.gradients = gradients
            step.synchronised = True
            return
        with step.perturbed(self._ascent.delta(step, step.gradients, self)):
            # Local gradients are mixed locally; the attachment averages the mixture once.
            ascended = step.recompute(sync=step.synchronised)
        # Not a list from before the second pass, which may have written over it in DDP's buckets.
        step.gradients = mixed_gradients(step.gradients, ascended, self.alpha)
