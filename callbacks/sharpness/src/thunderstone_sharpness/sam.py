"""Sharpness-aware minimization."""

from __future__ import annotations

from typing import ClassVar

import thunderstone
from thunderstone import ArgumentError, GradientStep, Method, UpdatePlan, hookimpl
from thunderstone.arguments import finite, flag, one_of, whole
from thunderstone_sharpness.ascent import Ascent


class SAM(Method):
    """Steps with the gradient at the worst point of a small neighbourhood of the weights.

    With ``g`` the gradient of the accumulated batch at weights ``w``, the optimizer is given the gradient of the same
    batch at ``w + rho * g / |g|``; the norm is over all parameters of the optimizer together. Foret et al. 2021,
    arXiv 2010.01412, equations 2 and 3. Cost: a second forward and backward pass on the steps where it acts.

    Args:
        rho: Radius of the neighbourhood, 0 or more; 0 switches the method off. A parameter group may carry its own
            radius under the key ``"rho"``; groups of radius 0 stay where they are and do not count in the norm.
        adaptive: Scale the neighbourhood with the weights (ASAM); the same as ``perturbation="adaptive_l2"``.
        eta: Stabiliser of the adaptive neighbourhood, 0 or more.
        interval: Act on every interval-th update only. Other updates are plain; rho is not scaled.
        sync: Under data parallelism, ascend along the gradient averaged over replicas. The default is the paper's:
            each replica ascends along its own (m-SAM), which also saves one reduction. Either way the replicas stay
            equal to the last bit.
        perturbation: Name of a ``sharpness.perturbation`` strategy; None chooses by `adaptive`.

    Raises:
        ArgumentError: An argument is out of range, or there is no such perturbation.
    """

    name: ClassVar[str] = "sam"
    exclusive: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def __init__(
        self,
        rho: float = 0.05,
        adaptive: bool = False,
        eta: float = 0.01,
        interval: int = 1,
        sync: bool = False,
        perturbation: str | None = None,
    ) -> None:
        who = type(self).__name__
        self.rho = finite(who, "rho", rho, "the paper uses 0.05; 0 switches the method off", minimum=0)
        self.adaptive = flag(who, "adaptive", adaptive, "pass adaptive=True for ASAM's neighbourhood")
        self.eta = finite(who, "eta", eta, "the ASAM paper uses 0.01", minimum=0)
        self.interval = whole(who, "interval", interval, "1 acts on every update, 10 on every tenth")
        self.sync = flag(who, "sync", sync, "pass sync=True to ascend along the averaged gradient")
        self.perturbation = perturbation
        if perturbation is not None:
            one_of(who, "perturbation", perturbation, thunderstone.strategies("sharpness.perturbation"))
            if adaptive and perturbation != "adaptive_l2":
                raise ArgumentError(
                    who,
                    "perturbation",
                    perturbation,
                    "adaptive=True asks for the adaptive_l2 direction",
                    "leave one of the two arguments out",
                )
        name = perturbation or ("adaptive_l2" if adaptive else "l2")
        self._ascent = Ascent(who, self.rho, self.eta, name)

    def _acts(self, index: int) -> bool:
        return self.rho > 0 and index % self.interval == 0

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        """Have the batch recorded on the updates where the method acts."""
        if self._acts(plan.index):
            plan.request_recompute(local_gradients=not self.sync)

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        """Replace the gradient by the one at the perturbed weights."""
        if not self._acts(step.index):
            return
        # The first gradients are handed over, and freed once the direction is known.
        with step.perturbed(self._ascent.delta(step, step.take_gradients(), self)):
            gradients = step.recompute()
        step.gradients = gradients
        step.synchronised = True
