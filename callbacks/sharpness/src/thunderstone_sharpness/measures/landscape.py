"""The loss on a line or a plane through the weights, and its picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thunderstone import ArgumentError
from thunderstone.arguments import finite, one_of, whole
from thunderstone_sharpness.measures.directions import filter_normalised
from thunderstone_sharpness.measures.eigenvalues import EigenResult, hessian_eigenvalues
from thunderstone_sharpness.measures.errors import MeasureError
from thunderstone_sharpness.measures.evaluation import Evaluation, Loss, evaluation
from thunderstone_sharpness.measures.noise import private

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Grid = NDArray[np.float64]

_KINDS = ("random", "eigenvectors")
# Along an eigenvector the picture reaches to where the quadratic model predicts a rise by this much.
_RISE = 1.0


@dataclass(frozen=True)
class Landscape:
    """The loss at ``w + a d1 (+ b d2)``.

    Attributes:
        coordinates: For each direction, the steps a (or b), shape (points,), 0 in the middle.
        losses: Shape (points,) or (points, points), indexed ``[a]`` or ``[a, b]``; NaN or infinite where the loss is.
        centre: The loss at the weights.
        kind: ``"random"``, ``"eigenvectors"`` or ``"given"``.
        eigenvalues: The curvature along each direction, where it is known.
    """

    coordinates: tuple[Grid, ...]
    losses: Grid
    centre: float
    kind: str
    eigenvalues: tuple[float, ...] = ()

    def figure(self, title: str | None = None) -> Figure:
        """A line plot or a map of heights; matplotlib, without pyplot and so without a window."""
        from thunderstone_sharpness.measures.landscape_figure import draw

        return draw(self, title)


def loss_landscape(
    module: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    *,
    directions: str | Sequence[Sequence[Tensor]] = "random",
    dimensions: int = 1,
    points: int = 21,
    span: float | None = None,
    eigen: EigenResult | None = None,
    generator: torch.Generator | None = None,
) -> Landscape:
    """The mean loss over all examples on a line or a plane through the weights.

    Evaluation mode; only parameters that require a gradient move; the module, its gradients and the random states are
    the same bits afterwards. A loss that overflows far away is part of the picture, not an error.

    Args:
        module: The module.
        batches: What `loss` is called with.
        loss: ``loss(module, batch)``, the mean loss of a batch.
        directions: ``"random"``: filter-normalised (see `filter_normalised`), one unit is the weights' own length.
            ``"eigenvectors"``: unit vectors of largest curvature. Or one list of tensors for each dimension, parallel
            to the trainable parameters, in which case `dimensions` is not used.
        dimensions: 1 or 2.
        points: Points along each direction, odd, so that the weights themselves are one of them.
        span: How far to go to either side, in units of the direction. None is 1; along eigenvectors, where the
            quadratic model predicts a rise of 1 (a loss of one unit).
        eigen: What `hessian_eigenvalues` returned for this module, if it is known already.
        generator: Draws random directions. The default is the same in every call: pictures of one module at two times
            show the same directions.

    Returns:
        A `Landscape`; its `figure` draws it. Cost: ``points ** dimensions`` forward passes over all batches.

    Raises:
        ArgumentError: An argument is out of range, or there are no batches.
        MeasureError: The loss at the weights is not finite; for eigenvectors, as `hessian_eigenvalues`.
    """
    who = "loss_landscape"
    points = whole(who, "points", points, "21 points are 10 to either side", minimum=3)
    if points % 2 == 0:
        raise ArgumentError(who, "points", points, "the weights themselves must be a point", "choose an odd number")
    if span is not None:
        span = finite(who, "span", span, "1 reaches as far as the weights are long", above=0)
    if isinstance(directions, str):
        one_of(who, "directions", directions, _KINDS)
        if dimensions not in (1, 2):
            raise ArgumentError(who, "dimensions", dimensions, "it must be 1 or 2", "2 draws a map, 1 a line")
        kind = directions
    else:
        kind = "given"
    fixed = list(batches)
    if kind == "eigenvectors":
        eigen = eigen or hessian_eigenvalues(module, fixed, loss, k=dimensions, generator=generator)
        if len(eigen.values) < dimensions:
            problem = f"it holds {len(eigen.values)} eigenvectors, and dimensions={dimensions}"
            raise ArgumentError(who, "eigen", f"EigenResult of {eigen.values}", problem, "compute more with k=2")
    source = private(generator)
    with evaluation(who, module, fixed, loss) as here:
        curvatures: tuple[float, ...] = ()
        if kind == "random":
            axes = [filter_normalised(here.origin, source) for _ in range(dimensions)]
        elif eigen is not None and kind == "eigenvectors":
            axes = [list(vector) for vector in eigen.vectors[:dimensions]]
            curvatures = eigen.values[:dimensions]
        else:
            axes = _given(who, directions, here)
        spans = [span or _span(here, curvature) for curvature in curvatures] or [span or 1.0] * len(axes)
        coordinates = tuple(np.linspace(-reach, reach, points) for reach in spans)
        centre = here.mean()
        losses = np.empty((points,) * len(axes))
        for position in np.ndindex(*losses.shape):
            steps = [axis[i] for axis, i in zip(coordinates, position, strict=True)]
            losses[position] = _height(here, axes, steps)
    return Landscape(coordinates, losses, centre, kind, curvatures)


def _height(here: Evaluation, axes: Sequence[Sequence[Tensor]], steps: Sequence[float]) -> float:
    point = list(here.origin)
    for axis, step in zip(axes, steps, strict=True):
        point = list(torch._foreach_add(point, list(axis), alpha=float(step)))
    here.move_to(point)
    return here.mean(finite=False)


def _span(here: Evaluation, curvature: float) -> float:
    if curvature > 0:
        return math.sqrt(2 * _RISE / curvature)
    # Flat or falling: a hundredth of the weights' length, so that there is something to see.
    length = math.sqrt(sum(float(value.double().square().sum()) for value in here.origin))
    return 0.01 * length or 1.0


def _given(who: str, directions: str | Sequence[Sequence[Tensor]], here: Evaluation) -> list[list[Tensor]]:
    axes = [list(direction) for direction in directions if not isinstance(direction, str)]
    if len(axes) not in (1, 2):
        raise ArgumentError(who, "directions", f"{len(axes)} lists", "a line needs one and a map two", "pass 1 or 2")
    shapes = [parameter.shape for parameter in here.parameters]
    for axis in axes:
        if [tensor.shape for tensor in axis] != shapes:
            hint = "give one tensor for each parameter that requires a gradient, in the order of named_parameters()"
            raise MeasureError(who, "a direction does not have the shapes of the trainable parameters", hint)
    return axes
