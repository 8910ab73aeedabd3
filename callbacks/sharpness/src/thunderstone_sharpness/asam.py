"""Adaptive sharpness-aware minimization."""

from __future__ import annotations

from typing import ClassVar

from thunderstone_sharpness.sam import SAM


class ASAM(SAM):
    """SAM in a neighbourhood that scales with each weight.

    The optimizer is given the gradient at ``w + rho * T^2 g / |T g|`` with ``T = |w| + eta`` on weights and 1 on
    biases, so that rescaling a layer without changing its function changes nothing. Kwon et al. 2021, arXiv
    2102.11600, equation 8. Cost: a second forward and backward pass on the steps where it acts.

    Args:
        rho: Radius of the neighbourhood, 0 or more; 0 switches the method off. The paper uses 0.5 on CIFAR-10 and 1.0
            on CIFAR-100. A parameter group may carry its own under the key ``"rho"``.
        eta: Stabiliser, 0 or more; keeps weights of zero movable.
        interval: Act on every interval-th update only.
        sync: Under data parallelism, ascend along the gradient averaged over replicas; see `SAM`.

    Raises:
        ArgumentError: An argument is out of range.
    """

    name: ClassVar[str] = "asam"

    def __init__(self, rho: float = 0.5, eta: float = 0.01, interval: int = 1, sync: bool = False) -> None:
        super().__init__(rho=rho, adaptive=True, eta=eta, interval=interval, sync=sync)
