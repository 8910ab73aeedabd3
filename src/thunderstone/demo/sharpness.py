"""Two simple measures of how sharply the training loss rises around the weights a run ended at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def cross_entropy_of(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """The mean loss as a function of nothing; set `network` to evaluation mode before it is called."""
    return lambda: functional.cross_entropy(network(images), labels)


def loss_rise(network: nn.Module, images: Tensor, labels: Tensor, radii: Sequence[float], batch_size: int) -> Tensor:
    """Mean over batches of ``L(w + r g/|g|) − L(w)``, with g the batch's own gradient: one step of steepest ascent.

    The L2 norm is over all parameters together. A lower bound of the worst rise within distance r of the weights.
    Foret et al. 2021 (arXiv 2010.01412), equation 2, as a measure.

    Args:
        network: In evaluation mode. Weights and `.grad` are afterwards as they were.
        images: (examples, …).
        labels: int64 (examples,).
        radii: Distances r from the weights, in units of the weights.
        batch_size: Examples a batch.

    Returns:
        (radii,) tensor of losses' dtype, in nats.
    """
    parameters: list[Tensor] = [parameter for parameter in network.parameters() if parameter.requires_grad]
    kept = [parameter.detach().clone() for parameter in parameters]
    rises = []
    for batch, truth in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
        loss = cross_entropy_of(network, batch, truth)
        here = loss()
        gradients = list(torch.autograd.grad(here, parameters))
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        row = []
        try:
            with torch.no_grad():
                for radius in radii:
                    torch._foreach_copy_(parameters, kept)
                    torch._foreach_add_(parameters, list(torch._foreach_mul(gradients, radius / norm)))
                    row.append(loss() - here)
        finally:
            with torch.no_grad():
                torch._foreach_copy_(parameters, kept)
        rises.append(torch.stack(row))
    return torch.stack(rises).mean(dim=0).detach()


def largest_eigenvalue(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    generator: torch.Generator,
    iterations: int = 80,
    tolerance: float = 1e-3,
) -> float:
    """Largest eigenvalue of the loss's Hessian, by Lanczos' iteration on Hessian-vector products.

    The basis is orthogonalised anew in every iteration, so no eigenvalue is found twice.

    Args:
        loss: The loss at the current weights, a 0-d tensor.
        parameters: What it is differentiated by.
        generator: Draws the first direction.
        iterations: At most so many Hessian-vector products.
        tolerance: Stop when the residual is below this share of the eigenvalue.
    """
    gradient = _flat(torch.autograd.grad(loss(), parameters, create_graph=True))

    def times_hessian(vector: Tensor) -> Tensor:
        return _flat(torch.autograd.grad(gradient, parameters, vector, retain_graph=True))

    direction = torch.randn(gradient.numel(), generator=generator, dtype=gradient.dtype)
    basis = (direction / direction.norm()).unsqueeze(0)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for _ in range(min(iterations, gradient.numel())):
        image = times_hessian(basis[-1]).detach()
        diagonal.append(float(image @ basis[-1]))
        for _ in range(2):  # once leaves rounding errors behind that grow
            image = image - basis.T @ (basis @ image)
        beta = image.norm()
        sides = torch.tensor(off_diagonal, dtype=image.dtype)
        tridiagonal = torch.tensor(diagonal, dtype=image.dtype).diag() + sides.diag(1) + sides.diag(-1)
        values, vectors = torch.linalg.eigh(tridiagonal)
        if beta * vectors[-1, -1].abs() <= tolerance * values[-1].abs():
            break
        off_diagonal.append(float(beta))
        basis = torch.cat([basis, (image / beta).unsqueeze(0)])
    return float(values[-1])


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
