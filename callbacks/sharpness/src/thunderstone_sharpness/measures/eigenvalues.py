"""Eigenvalues of the Hessian by Lanczos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh  # type: ignore[import-untyped]
from torch import Tensor, nn

from thunderstone.arguments import finite, one_of, whole
from thunderstone_sharpness.measures.errors import MeasureError
from thunderstone_sharpness.measures.evaluation import Evaluation, Loss, evaluation
from thunderstone_sharpness.measures.hessian import hessian_vector_product
from thunderstone_sharpness.measures.noise import normal, private

Vector = NDArray[np.float64]

# Below this many parameters the whole matrix costs less than Lanczos, and is exact.
_DENSE = 32
_ENDS = {"largest": "LA", "smallest": "SA", "magnitude": "LM"}


@dataclass(frozen=True)
class EigenResult:
    """Eigenpairs of a Hessian.

    Attributes:
        values: Eigenvalues, the wanted end first.
        residuals: For each, ``||H v - value v||`` of the returned unit vector: the distance to a true eigenvalue is at
            most this.
        vectors: For each, the unit eigenvector as tensors parallel to the module's trainable parameters.
        names: Qualified names of these parameters.
        products: Number of Hessian-vector products that were computed.
    """

    values: tuple[float, ...]
    residuals: tuple[float, ...]
    vectors: tuple[list[Tensor], ...]
    names: tuple[str, ...]
    products: int


def hessian_eigenvalues(
    module: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    *,
    k: int = 1,
    which: str = "largest",
    tolerance: float = 1e-4,
    max_iterations: int | None = None,
    generator: torch.Generator | None = None,
) -> EigenResult:
    """Top eigenvalues of the Hessian of the mean loss over all examples, by Lanczos (scipy's `eigsh`).

    Evaluation mode; only parameters that require a gradient count. Attention runs without fused kernels, which have no
    second derivative. Residuals say how good a pair is. The module, its gradients and the random states are the same
    bits afterwards. Where training is at the edge of stability, the largest eigenvalue of full-batch gradient descent
    hovers about ``2 / learning rate`` (Cohen et al. 2021, arXiv 2103.00065).

    Args:
        module: The module.
        batches: What `loss` is called with.
        loss: ``loss(module, batch)``, the mean loss of a batch.
        k: How many eigenpairs, fewer than there are parameters.
        which: ``"largest"`` (the most positive), ``"smallest"`` (the most negative) or ``"magnitude"`` (what power
            iteration finds: largest absolute value, perhaps negative).
        tolerance: Relative accuracy of the eigenvalues; weights in 32 bits carry about 1e-6.
        max_iterations: Restarts of Lanczos before giving up; None is ten times the number of parameters.
        generator: Draws the first vector. The default is the same in every call.

    Returns:
        Eigenvalues, vectors and residuals. Cost: a few tens of Hessian-vector products, each about twice a forward and
        backward pass over all batches, and ``max(2k + 1, 20)`` vectors of the size of the weights in 64 bits.

    Raises:
        ArgumentError: An argument is out of range, or there are no batches.
        MeasureError: The loss is not finite, has no graph or no second derivative, or Lanczos did not converge.

    >>> module = nn.Linear(2, 1, bias=False).double()
    >>> loss = lambda m, x: (m(x) ** 2).mean() / 2  # Hessian: x^T x / n
    >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> [round(value, 6) for value in hessian_eigenvalues(module, [x], loss, k=2).values]
    [4.5, 0.5]
    """
    who = "hessian_eigenvalues"
    k = whole(who, "k", k, "1 is the largest eigenvalue alone")
    end = _ENDS[one_of(who, "which", which, _ENDS)]
    tolerance = finite(who, "tolerance", tolerance, "1e-4 suits weights in 32 bits", above=0)
    if max_iterations is not None:
        max_iterations = whole(who, "max_iterations", max_iterations, "None is ten times the number of parameters")
    source = private(generator)
    with evaluation(who, module, batches, loss, twice=True) as here:
        size = sum(parameter.numel() for parameter in here.parameters)
        if k > size:
            problem = f"k={k} eigenvalues of a Hessian with {size} rows"
            raise MeasureError(who, problem, f"choose k of at most {size}, the number of trainable parameters")
        operator = _Counted(here, size)
        if size <= max(_DENSE, k + 1):
            values, vectors = _dense(operator, size, k, end)
        else:
            first = _flat(normal(here.parameters, source))
            values, vectors = _lanczos(who, operator, size, k, end, tolerance, max_iterations, first)
        residuals = [float(np.linalg.norm(operator(v) - value * v)) for value, v in zip(values, vectors.T, strict=True)]
        return EigenResult(
            tuple(float(value) for value in values),
            tuple(residuals),
            tuple(_shaped(vector, here.parameters) for vector in vectors.T),
            tuple(here.names),
            operator.calls,
        )


class _Counted:
    """The Hessian as a function of flat vectors that counts its calls."""

    def __init__(self, here: Evaluation, size: int) -> None:
        self.here, self.size, self.calls = here, size, 0

    def __call__(self, vector: Vector) -> Vector:
        self.calls += 1
        return _flat(hessian_vector_product(self.here, _shaped(vector.reshape(-1), self.here.parameters)))


def _dense(operator: Callable[[Vector], Vector], size: int, k: int, end: str) -> tuple[Vector, Vector]:
    matrix = np.stack([operator(row) for row in np.eye(size)])
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    order = _order(values, end)[:k]
    return values[order], vectors[:, order]


def _lanczos(
    who: str,
    operator: Callable[[Vector], Vector],
    size: int,
    k: int,
    end: str,
    tolerance: float,
    max_iterations: int | None,
    first: Vector,
) -> tuple[Vector, Vector]:
    if not operator(first).any():
        # A random vector lies in the kernel of no matrix but the zero matrix, on which Lanczos cannot start.
        return np.zeros(k), np.eye(size, k)
    linear = LinearOperator((size, size), matvec=operator, dtype=np.float64)
    hint = "raise max_iterations, or loosen tolerance (it cannot be finer than the rounding of the weights)"
    try:
        values, vectors = eigsh(linear, k, which=end, v0=first, tol=tolerance, maxiter=max_iterations)
    except ArpackNoConvergence as error:
        problem = f"Lanczos found {len(error.eigenvalues)} of k={k} eigenvalues to tolerance={tolerance:g}"
        raise MeasureError(who, problem, hint) from error
    except ArpackError as error:
        raise MeasureError(who, f"Lanczos stopped: {error}", hint) from error
    order = _order(values, end)
    return values[order], vectors[:, order]


def _order(values: Vector, end: str) -> NDArray[np.int64]:
    key = {"LA": -values, "SA": values, "LM": -np.abs(values)}[end]
    return np.argsort(key, kind="stable")


def _flat(tensors: Sequence[Tensor]) -> Vector:
    parts = [tensor.detach().reshape(-1).to("cpu", torch.float64).numpy() for tensor in tensors]
    return np.concatenate(parts)


def _shaped(vector: Vector, like: Sequence[Tensor]) -> list[Tensor]:
    pieces, start = [], 0
    for tensor in like:
        piece = vector[start : start + tensor.numel()]
        pieces.append(torch.from_numpy(np.ascontiguousarray(piece)).reshape(tensor.shape).to(tensor))
        start += tensor.numel()
    return pieces
