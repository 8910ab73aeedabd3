"""Methods that break rules 6 and 7 in company: beside one that makes further passes, by what they draw, if scaled."""

from __future__ import annotations

from typing import Any

import torch
from sound_method import Sound
from torch import Tensor

from thunderstone import GradientStep, LossStep, hookimpl


class KeepsFurtherPasses(Sound):
    """Averages losses, also those of a second pass over the same batch.

    Args:
        gain: As in `Sound`.
    """

    @hookimpl
    def loss_terms(self, step: LossStep) -> dict[str, Tensor]:
        self.average = 0.9 * self.average + 0.1 * float(step.loss)
        return {"term": self.average * step.loss}


class KeepsRehearsals(Sound):
    """Averages norms in place, also those of updates that are not made.

    Args:
        gain: As in `Sound`.
    """

    def __init__(self, gain: float = 0.5) -> None:
        super().__init__(gain)
        self.norms: dict[str, float] = {}

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        super().transform_gradients(step=step)
        self.norms["mean"] = 0.9 * self.norms.get("mean", 0.0) + 0.1 * float(step.norm())

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **self.norms}


class SeedsGlobally(Sound):
    """Makes its random numbers repeatable by seeding those of everybody.

    Args:
        gain: As in `Sound`.
    """

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        torch.manual_seed(step.index)
        super().transform_gradients(step=step)


class ClipsScaledGradients(Sound):
    """Compares gradients with a number, and forgets that they are scaled.

    Args:
        gain: As in `Sound`.
    """

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        for gradient in step.gradients:
            if gradient is not None:
                gradient.clamp_(-self.gain, self.gain)
