"""Sliced Wasserstein as a module, to be minimised."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thunderstone.arguments import finite, flag, one_of, whole
from thunderstone_estimators.sliced_wasserstein.choice import Choice, as_control_variate
from thunderstone_estimators.sliced_wasserstein.directions import DIRECTIONS
from thunderstone_estimators.sliced_wasserstein.distance import checked_chunk, sliced_wasserstein_distance

WHO = "SlicedWassersteinLoss"
REDUCTIONS = ("mean", "sum", "none")


class SlicedWassersteinLoss(nn.Module):
    """`sliced_wasserstein_distance` as a loss.

    Args:
        num_projections: L, directions a call.
        p: Order, at least 1.
        control_variate: As in `sliced_wasserstein_distance`.
        directions: ``"uniform"``, ``"orthogonal"`` or ``"qmc"``.
        power: Return the p-th power, ``SW_p^p``, whose gradient does not depend on its size.
        reduction: Of a batch of clouds: ``"mean"``, ``"sum"`` or ``"none"``.
        seed: Use the directions of this seed in every call; None draws new ones each time from torch's own generator.
        chunk: As in `sliced_wasserstein_distance`.

    Raises:
        ArgumentError: An argument is out of range.
        UnknownNameError: There is no control variate of that name.

    Example:
        >>> loss = SlicedWassersteinLoss(num_projections=16, seed=0)
        >>> x = torch.zeros(8, 3, requires_grad=True)
        >>> loss(x, torch.ones(8, 3)).backward()
        >>> bool((x.grad < 0).all())
        True
    """

    def __init__(
        self,
        num_projections: int = 50,
        p: float = 2,
        control_variate: Choice | None = None,
        directions: str = "uniform",
        power: bool = False,
        reduction: str = "mean",
        seed: int | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.num_projections = whole(WHO, "num_projections", num_projections, "50 to 1000 are usual")
        self.p = finite(WHO, "p", p, "use 2, or 1 for less weight on far points", minimum=1)
        if control_variate is not None:
            as_control_variate(WHO, control_variate)
        self.control_variate = control_variate
        self.directions = one_of(WHO, "directions", directions, DIRECTIONS)
        self.power = flag(WHO, "power", power, "True for SW_p^p, False for SW_p")
        self.reduction = one_of(WHO, "reduction", reduction, REDUCTIONS)
        self.seed = None if seed is None else whole(WHO, "seed", seed, "use 0, or None for new directions", minimum=0)
        self.chunk = checked_chunk(WHO, chunk)

    def forward(self, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        """The loss of clouds (N, D) or (B, N, D) with weights (N,) or (B, N); 0-d unless ``reduction="none"``."""
        value = sliced_wasserstein_distance(
            x,
            y,
            a,
            b,
            num_projections=self.num_projections,
            p=self.p,
            control_variate=self.control_variate,
            directions=self.directions,
            generator=None if self.seed is None else torch.Generator().manual_seed(self.seed),
            chunk=self.chunk,
        )
        result = value**self.p if self.power else value
        if self.reduction == "none":
            return result
        return result.mean() if self.reduction == "mean" else result.sum()

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"num_projections={self.num_projections}, p={self.p:g}, control_variate={self.control_variate!r}, "
            f"directions={self.directions!r}, power={self.power}, reduction={self.reduction!r}"
        )
