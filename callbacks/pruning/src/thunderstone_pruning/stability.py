"""How far apart two trainings end: the error between them, their distance and their angle.

Frankle, Dziugaite, Roy & Carbin 2019, arXiv 1903.01611, and 2020, arXiv 1912.05671: two trainings from one point that
differ only in the noise of SGD are stable when the error does not rise along the line between where they end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from thunderstone import ArgumentError
from thunderstone.arguments import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Interpolation:
    """Errors on the line between two networks.

    Attributes:
        alphas: Shares of the first network, from 0 to 1.
        errors: The error at each.
    """

    alphas: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def instability(self) -> float:
        """The largest error on the line beyond the mean of its ends; below 0.02 the papers call it stable."""
        return max(self.errors) - (self.errors[0] + self.errors[-1]) / 2

    def figure(self) -> Figure:
        """The error along the line, with the mean of its ends."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.6, 3.8), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(self.alphas, self.errors, color="#0072B2", marker=".")
        axes.axhline((self.errors[0] + self.errors[-1]) / 2, color="#666666", linestyle="--", linewidth=1)
        axes.set_title(f"Error between two trainings: instability {self.instability:.3f}", fontsize=11)
        axes.set_xlabel("share of the first training")
        axes.set_ylabel("error")
        return figure


def interpolate(
    module: nn.Module,
    first: Weights,
    second: Weights,
    error: Callable[[nn.Module], float],
    *,
    points: int = 30,
    batches: Iterable[Any] | None = None,
) -> Interpolation:
    """The error at `points` networks ``a first + (1 - a) second``, evenly from a = 0 to a = 1.

    The module is as before afterwards, also after an exception.

    Args:
        module: The network; what is in the two states takes the place of its own.
        first: A state (parameters and buffers by name), as of `state_dict`.
        second: Another, of the same names and shapes.
        error: Takes the network, in evaluation mode, and returns what is compared, e.g. the share of test images it
            gets wrong.
        points: How many networks, ends included. The papers use 30.
        batches: Training data to compute running statistics of batch normalisation from, anew for each network between
            the ends, whose own mean nothing there; inputs, or lists whose first entry they are. None interpolates them.

    Raises:
        ArgumentError: The states are not of this module, or `points` is less than 2.
    """
    whole("interpolate", "points", points, "the papers use 30", minimum=2)
    own = {name: value.detach().clone() for name, value in module.state_dict().items()}
    for argument, state in (("first", first), ("second", second)):
        differing = sorted(own.keys() ^ state.keys())
        differing += [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
        if differing:
            hint = "pass state_dict() of trainings of this module"
            raise ArgumentError("interpolate", argument, ", ".join(differing), "the module has no such state", hint)
    modes = [(layer, layer.training) for layer in module.modules()]
    alphas = tuple(number / (points - 1) for number in range(points))
    normalised = any(isinstance(layer, _BatchNorm) for layer in module.modules())
    errors = []
    try:
        for alpha in alphas:
            module.load_state_dict({name: _between(first[name], second[name], alpha) for name in own})
            if batches is not None and normalised and 0 < alpha < 1:
                with torch.random.fork_rng():
                    update_bn(batches, module)
            module.eval()
            errors.append(float(error(module)))
    finally:
        module.load_state_dict(own)
        for layer, training in modes:
            layer.training = training
    return Interpolation(alphas, tuple(errors))


def distance_and_angle(first: Weights, second: Weights, names: Iterable[str] | None = None) -> tuple[float, float]:
    """L2 distance and angle (in degrees; NaN with a vector of zeros) of two sets of weights, each taken as one vector.

    Args:
        first: Weights by name.
        second: Others of the same names and shapes.
        names: Which to look at; None is all of `first`.

    Raises:
        ArgumentError: One of them is not in both, or has two shapes.
    """
    chosen = list(first if names is None else names)
    absent = [name for name in chosen if name not in first or name not in second]
    differing = absent or [name for name in chosen if first[name].shape != second[name].shape]
    if differing:
        reason = "they are not in both sets" if absent else "they differ in shape"
        hint = "pass two states of one architecture, and names in them"
        raise ArgumentError("distance_and_angle", "names", ", ".join(differing), reason, hint)
    one = torch.cat([first[name].detach().flatten().double().cpu() for name in chosen])
    two = torch.cat([second[name].detach().flatten().double().cpu() for name in chosen])
    # Of unit vectors, by the half-angle: accurate for small angles too, where a cosine is not.
    u, v = one / one.norm(), two / two.norm()
    angle = 2 * math.atan2(float((u - v).norm()), float((u + v).norm()))
    return float((one - two).norm()), math.degrees(angle)


def _between(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    if alpha in (0.0, 1.0) or not first.is_floating_point():
        return second if alpha < 0.5 else first
    return alpha * first + (1 - alpha) * second.to(first.device)
