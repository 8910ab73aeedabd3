"""Ascent directions: where in its neighbourhood SAM looks for the worst loss.

Each is a pure function on lists of tensors, usable from any training loop, and a strategy of kind
``sharpness.perturbation``: a package that declares another can be named in ``SAM(perturbation="name")``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

Norm = Callable[[Sequence[Tensor]], Tensor]


class Perturbation(Protocol):
    """The signature of a ``sharpness.perturbation`` strategy.

    Args:
        gradients: Gradients of the loss, any shapes. May be scaled by a constant (a GradScaler's), which a direction
            that is normalised does not notice.
        weights: The parameters, parallel to `gradients`. Not to be changed.
        rho: Radius for each tensor, all above 0. Tensors of radius 0 are left out before the call.
        eta: Stabiliser of adaptive directions.
        biases: For each tensor, whether it is a bias.
        norm: L2 norm over a list of tensors together; reduces over shards where tensors are sharded.

    Returns:
        What to add to each weight: new tensors, parallel to `gradients`.
    """

    def __call__(
        self,
        gradients: Sequence[Tensor],
        weights: Sequence[Tensor],
        rho: Sequence[float],
        *,
        eta: float,
        biases: Sequence[bool],
        norm: Norm,
    ) -> list[Tensor]: ...


def _inverse(norm: Tensor) -> Tensor:
    # At a stationary point there is no direction of ascent: stay there instead of dividing by zero.
    return torch.where(norm == 0, torch.zeros_like(norm), norm.reciprocal())


def _times(tensors: Sequence[Tensor], rho: Sequence[float], factor: Tensor) -> list[Tensor]:
    if not tensors:
        return []
    if len(set(rho)) == 1:
        return list(torch._foreach_mul(list(tensors), factor * rho[0]))
    scaled = torch._foreach_mul(list(tensors), list(rho))
    torch._foreach_mul_(scaled, factor)
    return list(scaled)


def l2(
    gradients: Sequence[Tensor],
    weights: Sequence[Tensor],
    rho: Sequence[float],
    *,
    eta: float = 0.0,
    biases: Sequence[bool] = (),
    norm: Norm,
) -> list[Tensor]:
    """``rho * g / |g|``: steepest ascent in an L2 ball. Foret et al. 2021, eq. 2.

    Shapes, arguments and result as in `Perturbation`; `weights`, `eta` and `biases` are not used.
    """
    return _times(gradients, rho, _inverse(norm(gradients)))


def adaptive_l2(
    gradients: Sequence[Tensor],
    weights: Sequence[Tensor],
    rho: Sequence[float],
    *,
    eta: float = 0.01,
    biases: Sequence[bool] = (),
    norm: Norm,
) -> list[Tensor]:
    """``rho * T^2 g / |T g|`` with ``T = |w| + eta`` on weights and 1 on biases. Kwon et al. 2021, eq. 8 and section 5.

    Shapes, arguments and result as in `Perturbation`.
    """
    if not gradients:
        norm(gradients)
        return []
    scale = torch._foreach_abs([weight.detach() for weight in weights])
    torch._foreach_add_(scale, eta)
    for tensor, bias in zip(scale, biases, strict=bool(biases)):
        if bias:
            tensor.fill_(1.0)
    scaled = list(torch._foreach_mul(list(gradients), scale))
    inverse = _inverse(norm(scaled))
    torch._foreach_mul_(scaled, scale)
    # In place, and the scale is let go first: each of them is as large as the weights.
    del scale
    if len(set(rho)) == 1:
        torch._foreach_mul_(scaled, inverse * rho[0])
    else:
        torch._foreach_mul_(scaled, list(rho))
        torch._foreach_mul_(scaled, inverse)
    return scaled


def linf(
    gradients: Sequence[Tensor],
    weights: Sequence[Tensor],
    rho: Sequence[float],
    *,
    eta: float = 0.0,
    biases: Sequence[bool] = (),
    norm: Norm | None = None,
) -> list[Tensor]:
    """``rho * sign(g)``: steepest ascent in a max-norm ball. Foret et al. 2021, section 2, with p = infinity.

    Shapes, arguments and result as in `Perturbation`; only `gradients` and `rho` are used.
    """
    if not gradients:
        return []
    if any(gradient.is_complex() for gradient in gradients):
        signs = [gradient.sgn() for gradient in gradients]
    else:
        signs = list(torch._foreach_sign(list(gradients)))
    torch._foreach_mul_(signs, list(rho))
    return signs
