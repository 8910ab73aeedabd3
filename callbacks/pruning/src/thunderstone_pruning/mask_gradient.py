"""The gradient of bi-level pruning with respect to the mask.

Zhang, Yao, Ram, Zhao, Chen, Hong, Wang & Liu 2022, arXiv 2210.04092. The mask ``m`` is the upper level and the weights
are the lower: minimise ``F(m) = l(m * theta(m))`` where ``theta(m)`` minimises ``l(m * theta) + gamma / 2 |theta|^2``.
With ``z = m * theta`` and ``g = dl/dz``, the implicit function theorem says

    dF/dm = theta * g - [d2/dm dtheta] [gamma I + m H m]^-1 (m * g),    [d2/dm dtheta] = diag(g) + theta * H * m

where H is the Hessian of the loss in z. Without H (equation 10 of the paper) that is ``(theta - m * g / gamma) * g``:
first-order terms only, and exact where the loss is linear in z.
"""

from __future__ import annotations

from torch import Tensor


def mask_gradient(weights: Tensor, gradient: Tensor, mask: Tensor, inverse_gamma: float) -> Tensor:
    """``(theta - m * g / gamma) * g``: how the loss answers to the mask, the weights' answer to it included.

    Args:
        weights: theta, of any shape: what each weight is or would be, pruned ones too.
        gradient: dl/dz at ``z = m * theta``, dense, of the same shape.
        mask: m, bool or numbers, of the same shape.
        inverse_gamma: 1 / gamma; 0 leaves the implicit part out.

    Returns:
        A new tensor of that shape; positive where the loss falls when the weight goes.
    """
    explicit = weights * gradient
    return explicit if inverse_gamma == 0 else explicit - inverse_gamma * (mask * gradient) * gradient
