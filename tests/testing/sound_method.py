"""A small method that keeps every rule; the broken ones are this one with one thing wrong."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from thunderstone import GradientStep, Method, hookimpl
from thunderstone.arguments import finite


class Sound(Method):
    """Scales gradients by a factor that follows their average norm.

    Args:
        gain: How much of the average norm is added to the factor, 0 or more; 0 switches the method off.
    """

    name: ClassVar[str] = "sound"

    def __init__(self, gain: float = 0.5) -> None:
        self.gain = finite(type(self).__name__, "gain", gain, "0.5 is a moderate gain", minimum=0)
        self.average = 0.0

    def on_attach(self, trainer: Any, pl_module: Any) -> None:
        self.average = 0.0

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        if self.gain == 0:
            return
        norm = float(step.unscaled(step.norm()))
        self.record("norm", norm)
        if norm != norm or norm == float("inf"):
            return
        self.average = 0.9 * self.average + 0.1 * norm
        factor = 1.0 + self.gain * self.average
        gradients: list[Tensor | None] = [None if g is None else g * factor for g in step.gradients]
        step.gradients = gradients

    def state_dict(self) -> dict[str, Any]:
        return {"average": torch.tensor(self.average, dtype=torch.float64)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average = float(state_dict["average"])
