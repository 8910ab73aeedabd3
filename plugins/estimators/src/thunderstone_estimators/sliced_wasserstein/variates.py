"""Control variates of sliced Wasserstein: functions of a direction that resemble the projected distance.

Each is a strategy of kind ``estimators.control_variate``: a package that declares another can be named in
``sliced_wasserstein_distance(control_variate="name")`` and everywhere else a control variate is taken.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from thunderstone_estimators.coefficients import fitted_coefficients
from thunderstone_estimators.sliced_wasserstein.clouds import CloudPair
from thunderstone_estimators.sliced_wasserstein.directions import draw_directions
from thunderstone_estimators.sliced_wasserstein.harmonics import even_harmonics, fitting_size


class Variate(Protocol):
    """The signature of an ``estimators.control_variate`` strategy.

    Args:
        directions: The draws: L unit vectors, float64, (L, D), each uniform on the sphere.
        clouds: The pair of point clouds, with means, variances and covariances in float64.
        generator: For variates that draw something of their own; None for the global generator.

    Returns:
        The variate of every draw, (B, L) for one or (B, L, k) for k (B may be 1), and its mean over the sphere, (B,)
        or (B, k). With the graph, so that the gradient of the estimate is corrected too.
    """

    def __call__(
        self, directions: Tensor, clouds: CloudPair, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]: ...


def lower(directions: Tensor, clouds: CloudPair, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """``(theta . delta)^2`` of the difference of the means, a lower bound of W_2^2. Nguyen & Ho 2023, definition 4."""
    delta = clouds.delta
    return (delta @ directions.mT).square(), delta.square().sum(-1) / clouds.dimension


def upper(directions: Tensor, clouds: CloudPair, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """The lower bound plus both projected variances, an upper bound of W_2^2. Nguyen & Ho 2023, definition 5."""
    bound, mean = lower(directions, clouds)
    first, second = clouds.projected_variances(directions)
    total_first, total_second = clouds.total_variances
    return bound + first + second, mean + (total_first + total_second) / clouds.dimension


def gaussian(directions: Tensor, clouds: CloudPair, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """W_2^2 of the Gaussians with the projected moments, ``(theta . delta)^2 + (sigma_1 - sigma_2)^2``.

    The mean of ``sigma_1 sigma_2`` has no closed form. It is estimated, without bias, over many more directions of its
    own, which cost no sorting, with both projected variances for control variates.
    """
    bound, mean = upper(directions, clouds)
    first, second = clouds.projected_variances(directions)
    # Orthogonal ones cost a decomposition and are no better once both variances are taken out. In high dimension those
    # hardly vary from one direction to the next, and fewer will do.
    kind = "qmc" if clouds.dimension <= 3 else "uniform"
    least = 1024 if clouds.dimension <= 64 else 256
    many = draw_directions(kind, max(least, 16 * len(directions)), clouds.dimension, generator, directions.device)
    others = clouds.projected_variances(many)
    products = _root(others[0]) * _root(others[1])
    variates = torch.stack([other.expand_as(products) for other in others], -1)
    traces = torch.stack([total.expand(len(products)) for total in clouds.total_variances], -1)
    # Fitted once and held: a thousand draws make its bias vanish, and the graph stays small.
    weights = products.new_full((1, len(many)), 1 / len(many))
    gamma = fitted_coefficients("ols", products.detach(), variates.detach(), weights, 1e-6)
    away = variates.mean(-2) - traces / clouds.dimension
    expected = products.mean(-1) - (gamma.squeeze(-2) * away).sum(-1)
    return bound - 2 * _root(first) * _root(second), mean - 2 * expected


def _root(variances: Tensor) -> Tensor:
    """Square root whose gradient is 0, not infinite, where a cloud has no extent."""
    flat = variances <= torch.finfo(variances.dtype).tiny
    return torch.where(flat, torch.zeros_like(variances), torch.where(flat, 1.0, variances).sqrt())


def harmonic(directions: Tensor, clouds: CloudPair, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Even spherical harmonics, as many as half the draws can fit. Leluc et al. 2024, arXiv 2402.01493.

    Where there are too few draws for all harmonics of degree 2, those of the coordinates in which the clouds extend and
    differ most. They depend on the directions alone, so they correct gradients only through gamma (``detach=False``).
    """
    size = fitting_size(len(directions), clouds.dimension)
    if size is None:
        return directions.new_zeros(1, len(directions)), directions.new_zeros(1)
    coordinates, degree = size
    turned = directions.unsqueeze(0)
    if coordinates < clouds.dimension:
        turned = turned @ _principal_axes(clouds, coordinates)
    values = even_harmonics(turned, degree, clouds.dimension)
    return values, values.new_zeros(len(values), values.shape[-1])


@torch.no_grad()
def _principal_axes(clouds: CloudPair, number: int) -> Tensor:
    """Leading orthonormal axes of the points around their common centre, (B, D, number)."""
    batch = max(len(clouds.x), len(clouds.y))
    points = torch.cat([cloud.double().expand(batch, -1, -1) for cloud in (clouds.x, clouds.y)], -2)
    centred = points - points.mean(-2, keepdim=True)
    if points.shape[-1] <= points.shape[-2]:
        axes: Tensor = torch.linalg.eigh(centred.mT @ centred).eigenvectors[..., -number:]
    else:
        axes = torch.linalg.svd(centred, full_matrices=True).Vh[..., :number, :].mT
    return axes
