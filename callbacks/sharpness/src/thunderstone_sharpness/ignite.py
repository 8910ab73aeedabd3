"""Sharpness-aware surrogates for offline optimisation."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from thunderstone import GradientStep, LossStep, Method, StepError, UpdatePlan, hookimpl
from thunderstone.arguments import captured, finite
from thunderstone_sharpness.perturbations import l2


def next_multiplier(multiplier: Tensor, norm: Tensor, rho: float, eta: float, epsilon: float) -> Tensor:
    """``max(0, lambda + eta (rho |grad G| - epsilon))``: the dual ascent step of Dao et al. 2025.

    A Lagrange multiplier of an inequality is never negative; the released code does not clamp it. A norm that is not
    finite (an overflow under a GradScaler) leaves the multiplier where it is.

    Args:
        multiplier: lambda, 0-d.
        norm: Norm of the gradient of the mean output, 0-d, unscaled.
        rho: Radius.
        eta: Step size of the multiplier.
        epsilon: Sharpness that is tolerated.
    """
    moved = (multiplier + eta * (rho * norm.to(multiplier) - epsilon)).clamp_min(0)
    return torch.where(torch.isfinite(moved), moved, multiplier)


class IGNITE(Method):
    """Trains surrogates whose *output* changes little around the weights, for optimising against them afterwards.

    With ``G`` the mean of the model's outputs over the batch, the sharpness ``rho |grad G|`` is held below `epsilon` by
    a Lagrange multiplier: ``lambda (rho / r) [grad G(w + r grad G / |grad G|) - grad G(w)]`` is added to the gradient
    of the loss, and ``lambda`` follows ``eta (rho |grad G| - epsilon)`` and stays at 0 or above. Dao et al. 2025, arXiv
    2503.04242. Cost: two further passes a step.

    Args:
        multiplier: lambda at the start, 0 or more. The paper uses 1e-3.
        rho: Radius of the sharpness, 0 or more; 0 switches the method off. The paper uses 0.05.
        r: Length of the step at which the second gradient is taken, above 0. The paper uses 0.05.
        eta: Step size of the multiplier, 0 or more. The paper uses 1e-3.
        epsilon: Sharpness that is tolerated, 0 or more. The paper uses 1e-3.
        output: Where the model's output comes from: None for the module's own forward, or the name of a submodule,
            with an entry after a colon where the output is no tensor.
        call: Which call of it counts when there are several in a step.

    Raises:
        ArgumentError: An argument is out of range, or there is no such submodule.
    """

    name: ClassVar[str] = "ignite"
    exclusive: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def __init__(
        self,
        multiplier: float = 1e-3,
        rho: float = 0.05,
        r: float = 0.05,
        eta: float = 1e-3,
        epsilon: float = 1e-3,
        output: str | None = None,
        call: int | None = None,
    ) -> None:
        self.multiplier = finite("IGNITE", "multiplier", multiplier, "the paper starts at 0.001", minimum=0)
        self.rho = finite("IGNITE", "rho", rho, "the paper uses 0.05; 0 switches the method off", minimum=0)
        self.r = finite("IGNITE", "r", r, "the paper uses 0.05", above=0)
        self.eta = finite("IGNITE", "eta", eta, "the paper uses 0.001", minimum=0)
        self.epsilon = finite("IGNITE", "epsilon", epsilon, "the paper uses 0.001", minimum=0)
        captured("IGNITE", output, call)
        self.output = output
        self.call = call
        self._current: Tensor | None = None
        self._loaded = False

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the outputs captured."""
        self._loaded = False
        if self.rho > 0:
            self._capture = self.attachment.capture(self, self.output, self.call)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the multiplier of the arguments, unless a checkpoint brought one."""
        if not self._loaded:
            self._current = torch.tensor(self.multiplier, dtype=torch.float64)
        self._loaded = False

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        """Have the batch recorded."""
        if self.rho > 0:
            plan.request_recompute()

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        """Add the gradient of the sharpness of the mean output, and move the multiplier."""
        if self.rho == 0 or self._current is None:
            return
        here = step.recompute(objective=self._mean_output)
        present = [g for g in here if g is not None]
        norm = step.norm(present)
        directions = l2(present, present, [self.r] * len(present), norm=lambda _: norm)
        # Taken off the list one by one, so that nothing holds the direction once it is applied.
        directions.reverse()
        with step.perturbed([None if g is None else directions.pop() for g in here]):
            there = step.recompute(objective=self._mean_output)
        # Apple's GPUs have no float64.
        current = self._current.to(norm.device, torch.float32 if norm.device.type == "mps" else torch.float64)
        factor = current * (self.rho / self.r)
        gradients = step.gradients
        for position, (a, b) in enumerate(zip(here, there, strict=True)):
            if a is not None and b is not None:
                extra, loss = (b - a) * factor, gradients[position]
                gradients[position] = extra if loss is None else loss + extra
        step.gradients = gradients
        sensitivity = step.unscaled(norm)
        self._current = next_multiplier(current, sensitivity, self.rho, self.eta, self.epsilon)
        self.record("sensitivity", sensitivity)
        self.record("multiplier", self._current)

    def _mean_output(self, step: LossStep) -> Tensor:
        output = step.output(self._capture)
        if not output.requires_grad:
            raise StepError(
                f"IGNITE: the output of {self._capture.described} has no gradient (it is detached, or of type "
                f"{output.dtype}). HINT: capture the submodule whose output the loss is computed from"
            )
        # A mean over many half-precision outputs would lose what it is to be differentiated for.
        return output.to(torch.promote_types(output.dtype, torch.float32)).mean()

    def state_dict(self) -> dict[str, Any]:
        """The multiplier, once training has begun."""
        return {} if self._current is None else {"multiplier": self._current}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved multiplier."""
        self._current = state_dict.get("multiplier")
        self._loaded = self._current is not None
