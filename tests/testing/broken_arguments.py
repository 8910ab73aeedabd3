"""Methods that break rule 10: each explains itself badly."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import torch
from broken_results import Average, NoEffect
from lightning.pytorch import LightningModule, Trainer
from sound_method import Sound

from thunderstone import GradientStep, Method, hookimpl


class TakesAnything(Method):
    """Takes whatever it is given.

    Args:
        options: Anything.
    """

    name: ClassVar[str] = "anything"

    def __init__(self, **options: float) -> None:
        self.options = options


class ForgetsAnArgument(Method):
    """Does not keep its argument.

    Args:
        rate: A rate.
    """

    name: ClassVar[str] = "forgets"

    def __init__(self, rate: float = 0.1) -> None:
        self._rate = rate


class Exits(Method):
    """Ends the process."""

    name: ClassVar[str] = "exits"

    def __init__(self) -> None:
        raise SystemExit(3)


class Untyped(Method):
    """Says nothing about its argument's type.

    Args:
        rate: A rate.
    """

    name: ClassVar[str] = "untyped"

    def __init__(self, rate=0.1) -> None:
        self.rate = rate


class Undocumented(Method):
    """Says nothing about its argument."""

    name: ClassVar[str] = "undocumented"

    def __init__(self, rate: float = 0.1) -> None:
        self.rate = rate


class UnserialisableDefault(Method):
    """Has a default that no YAML can hold.

    Args:
        direction: A tensor.
    """

    name: ClassVar[str] = "unserialisable"

    def __init__(self, direction: complex = 1j) -> None:
        self.direction = direction


class DrawsAtBirth(Sound):
    """Draws a random number when it is built.

    Args:
        gain: As in `Sound`.
    """

    def __init__(self, gain: float = 0.5) -> None:
        super().__init__(gain)
        self._phase = random.random()


class AllocatesAtBirth(Sound):
    """Makes a tensor when it is built.

    Args:
        gain: As in `Sound`.
    """

    def __init__(self, gain: float = 0.5) -> None:
        super().__init__(gain)
        self._total = torch.zeros(3)


class AcceptsAnything(Sound):
    """Does not look at its argument.

    Args:
        gain: As in `Sound`.
    """

    def __init__(self, gain: float = 0.5) -> None:
        self.gain = gain
        self.average = 0.0


class RefusesObscurely(Sound):
    """Lets Python complain about its argument.

    Args:
        gain: As in `Sound`.
    """

    def __init__(self, gain: float = 0.5) -> None:
        super().__init__(0.5)
        self.gain = float(gain) if gain == gain else int(gain)


class Wrapped(Sound):
    """Takes an argument no parser can build.

    Args:
        average: An object.
    """

    def __init__(self, average: Average | None = None) -> None:
        super().__init__(0.5)
        self._given = average
        self.average_of = average

    @property
    def arguments(self) -> dict[str, Any]:
        return {"average": object()}


class BareStateKey(Sound):
    """Keeps its state under the bare name of its class, as Lightning would.

    Args:
        gain: As in `Sound`.
    """

    @property
    def state_key(self) -> str:
        return type(self).__qualname__


class Nameless(Sound):
    """Has no name.

    Args:
        gain: As in `Sound`.
    """

    name: ClassVar[str] = ""


class AssumesAutomaticOptimization(NoEffect):
    """Takes for granted that Lightning runs the optimizer."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        if not pl_module.automatic_optimization:
            raise AttributeError("'NoneType' object has no attribute 'step'")


class AssumesALoss(Sound):
    """Takes for granted that every batch has a loss.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self._last = float(outputs["loss"])


class AssumesAFiniteLoss(Sound):
    """Takes for granted that gradients are numbers.

    Args:
        gain: As in `Sound`.
    """

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        super().transform_gradients(step=step)
        int(step.norm())
