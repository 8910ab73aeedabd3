"""From the gradients of a step to the point at which they are taken again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

import thunderstone
from thunderstone import GradientStep, Method
from thunderstone.arguments import finite
from thunderstone_sharpness.perturbations import Perturbation


class Ascent:
    """A perturbation strategy applied to the parameter groups of an optimizer.

    Args:
        who: The method's name for messages.
        rho: Radius of groups that carry none of their own under the key ``"rho"``.
        eta: Stabiliser of adaptive directions.
        perturbation: Name of a ``sharpness.perturbation`` strategy.
    """

    def __init__(self, who: str, rho: float, eta: float, perturbation: str) -> None:
        self.who, self.rho, self.eta = who, rho, eta
        self._direction: Perturbation = thunderstone.strategy("sharpness.perturbation", perturbation)

    def delta(
        self, step: GradientStep, gradients: Sequence[Tensor | None], reporter: Method | None = None
    ) -> list[Tensor | None]:
        """What to add to each of `step.parameters`; None where a parameter stays.

        Args:
            step: The update.
            gradients: Parallel to `step.parameters`.
            reporter: Records the norm of the gradients that count, as ``gradient_norm``.
        """
        radii = [self._radius(group) for group in step.groups]
        present: list[Tensor] = []
        moving: list[int] = []
        for position, gradient in enumerate(gradients):
            if gradient is not None and radii[position] > 0:
                present.append(gradient)
                moving.append(position)
        if step.overflowed(present):
            # The scaler will skip this step. Weights of NaN would bring down modules that check what they are given, so
            # the second pass, which replicas must not leave out on their own, runs here and overflows again.
            return [None] * len(gradients)
        known = None if reporter is None else step.norm(present)
        if reporter is not None and known is not None:
            reporter.record("gradient_norm", step.unscaled(known))

        def norm(tensors: Sequence[Tensor | None]) -> Tensor:
            # Most directions ask for the norm that is recorded.
            return known if known is not None and tensors is present else step.norm(tensors)

        # Also with an empty list: under sharding every rank takes part in the direction's norm.
        directions = self._direction(
            present,
            [step.parameters[position] for position in moving],
            [radii[position] for position in moving],
            eta=self.eta,
            biases=[_is_bias(step.names[position]) for position in moving],
            norm=norm,
        )
        delta: list[Tensor | None] = [None] * len(gradients)
        for position, direction in zip(moving, directions, strict=True):
            delta[position] = direction
        return delta

    def _radius(self, group: dict[str, Any]) -> float:
        if "rho" not in group:
            return self.rho
        hint = "give the group a radius of 0 or more, or none to use the method's"
        return finite(self.who, "rho of a parameter group", group["rho"], hint, minimum=0)


def _is_bias(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last.startswith("bias") or last.endswith("bias")
