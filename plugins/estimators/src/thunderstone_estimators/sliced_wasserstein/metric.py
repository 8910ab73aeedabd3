"""Sliced Wasserstein as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from thunderstone import ArgumentError
from thunderstone.arguments import finite, one_of, whole
from thunderstone_estimators.sliced_wasserstein.choice import Choice, as_control_variate
from thunderstone_estimators.sliced_wasserstein.clouds import checked_clouds
from thunderstone_estimators.sliced_wasserstein.directions import DIRECTIONS
from thunderstone_estimators.sliced_wasserstein.distance import checked_chunk, sliced_wasserstein_distance

WHO = "SlicedWassersteinDistance"


def _sliced_wasserstein_update(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Check one update's points and lay them out flat: (N, D) each, at least float32."""
    for name, points in (("x", x), ("y", y)):
        if isinstance(points, Tensor) and points.dim() != 2:
            hint = "flatten what is not a vector, e.g. points.flatten(1)"
            raise ArgumentError(WHO, name, tuple(points.shape), "points must have shape (points, dimensions)", hint)
    clouds = checked_clouds(WHO, x, y)
    return clouds.x.squeeze(0), clouds.y.squeeze(0)


def _sliced_wasserstein_compute(x: Tensor, y: Tensor, seed: int, **settings: Any) -> Tensor:
    """The distance of all points, along the directions of `seed`."""
    value: Tensor = sliced_wasserstein_distance(x, y, generator=torch.Generator().manual_seed(seed), **settings)
    return value


class SlicedWassersteinDistance(Metric):
    r"""Sliced Wasserstein distance of all points seen: samples of a model and of data, two sets of embeddings.

    .. math:: SW_p(\mu, \nu) = \left(\mathbb{E}_\theta W_p^p(\theta_\#\mu, \theta_\#\nu)\right)^{1/p}

    The points are kept, and on several devices gathered, so that the distance is that of the whole; directions come
    from a seed, so that all ranks and epochs share them and a curve shows the model and not the draw. The functional
    twin is `sliced_wasserstein_distance`.

    As input to ``forward`` and ``update``: ``x`` (N, D) and ``y`` (M, D), floating point. As output of ``forward`` and
    ``compute``: the distance, 0-d.

    Args:
        num_projections: L, the number of directions.
        p: Order, at least 1.
        control_variate: As in `sliced_wasserstein_distance`.
        directions: ``"uniform"``, ``"orthogonal"`` or ``"qmc"``.
        seed: Of the directions.
        chunk: Directions at a time, as in `sliced_wasserstein_distance`.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ArgumentError: An argument is out of range, or points do not fit together.
        UnknownNameError: There is no control variate of that name.

    Example:
        >>> metric = SlicedWassersteinDistance(num_projections=8, control_variate="lower")
        >>> metric.update(torch.zeros(4, 2), torch.ones(4, 2))
        >>> metric.update(torch.zeros(2, 2), torch.ones(2, 2))
        >>> round(metric.compute().item(), 4)
        1.0
    """

    is_differentiable: bool = True
    higher_is_better: bool = False
    full_state_update: bool = False
    plot_lower_bound: float = 0.0

    x: list[Tensor]
    y: list[Tensor]

    def __init__(
        self,
        num_projections: int = 500,
        p: float = 2,
        control_variate: Choice | None = None,
        directions: str = "uniform",
        seed: int = 0,
        chunk: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_projections = whole(WHO, "num_projections", num_projections, "500 to 1000 are usual")
        self.p = finite(WHO, "p", p, "use 2, or 1 for less weight on far points", minimum=1)
        if control_variate is not None:
            as_control_variate(WHO, control_variate)
        self.control_variate = control_variate
        self.directions = one_of(WHO, "directions", directions, DIRECTIONS)
        self.seed = whole(WHO, "seed", seed, "use 0", minimum=0)
        self.chunk = checked_chunk(WHO, chunk)
        self.add_state("x", default=[], dist_reduce_fx="cat")
        self.add_state("y", default=[], dist_reduce_fx="cat")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Take in points of both clouds, (N, D) and (M, D)."""
        first, second = _sliced_wasserstein_update(x, y)
        self.x.append(first)
        self.y.append(second)

    def compute(self) -> Tensor:
        """The distance of all points seen. Raises ArgumentError before any were."""
        for name, points in (("x", self.x), ("y", self.y)):
            # A list until torchmetrics has gathered it from every device.
            if isinstance(points, list) and not points:
                raise ArgumentError(WHO, name, "no points", "nothing was taken in yet", "call update(x, y) first")
        return _sliced_wasserstein_compute(
            dim_zero_cat(self.x),
            dim_zero_cat(self.y),
            self.seed,
            num_projections=self.num_projections,
            p=self.p,
            control_variate=self.control_variate,
            directions=self.directions,
            chunk=self.chunk,
        )

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value or several: those passed, or the current one.

        Args:
            val: Values of ``compute`` or ``forward``, e.g. one an epoch; None for ``compute()``.
            ax: A matplotlib axis to draw on.

        Returns:
            The figure and the axis.
        """
        return self._plot(val, ax)
