"""The Hessian of the loss, through products with vectors only; its trace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from thunderstone.arguments import whole
from thunderstone_sharpness.measures.errors import MeasureError, first_line
from thunderstone_sharpness.measures.estimate import Estimate
from thunderstone_sharpness.measures.evaluation import Evaluation, Loss, evaluation
from thunderstone_sharpness.measures.noise import private, signs


def hessian_vector_product(here: Evaluation, vector: Sequence[Tensor]) -> list[Tensor]:
    """``H v`` for the Hessian of the mean loss over all examples (sum over examples, divided by their number).

    Args:
        here: An evaluation made with ``twice=True``.
        vector: Parallel to ``here.parameters``.

    Raises:
        MeasureError: The loss cannot be differentiated twice.
    """
    total = [torch.zeros_like(parameter) for parameter in here.parameters]
    examples = sum(here.sizes)
    for size, batch in zip(here.sizes, here.batches, strict=True):
        value, gradient = here.gradient(batch, create_graph=True)
        if not here.checked:
            _refuse_once_differentiable(here, value)
            here.checked = True
        slope = _inner(gradient, vector)
        if not slope.requires_grad:
            continue  # The gradient is constant: the loss is linear in the weights, its Hessian zero.
        try:
            product = torch.autograd.grad(slope, here.parameters, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise _no_second_derivative(here, first_line(error)) from error
        for sum_, part in zip(total, product, strict=True):
            if part is not None:
                sum_.add_(part, alpha=size / examples)
    return total


def hessian_trace(
    module: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    *,
    draws: int = 30,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Trace of the Hessian of the mean loss over all examples: Hutchinson's estimate ``E v^T H v``, v of random signs.

    Evaluation mode; only parameters that require a gradient count; the module, its gradients and the random states are
    the same bits afterwards. Hutchinson 1989, doi 10.1080/03610918908812806.

    Args:
        module: The module.
        batches: What `loss` is called with.
        loss: ``loss(module, batch)``, the mean loss of a batch.
        draws: Number of random vectors, each one Hessian-vector product over all batches.
        generator: Draws the vectors. The default is the same in every call.

    Returns:
        The trace with its standard error over draws (0 where the Hessian is diagonal: every draw is then exact).

    Raises:
        ArgumentError: An argument is out of range, or there are no batches.
        MeasureError: The loss is not finite, or has no graph or no second derivative.
    """
    return Estimate.of(trace_draws("hessian_trace", module, batches, loss, draws, generator))


def trace_draws(
    who: str,
    module: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    draws: int,
    generator: torch.Generator | None,
) -> list[float]:
    """``v^T H v`` for each draw of `hessian_trace`."""
    draws = whole(who, "draws", draws, "30 give a standard error of a few per cent on most networks")
    source = private(generator)
    estimates = []
    with evaluation(who, module, batches, loss, twice=True) as here:
        for _ in range(draws):
            vector = signs(here.parameters, source)
            estimates.append(float(_inner(hessian_vector_product(here, vector), vector)))
    return estimates


def _no_second_derivative(here: Evaluation, reason: str) -> MeasureError:
    return MeasureError(
        here.measure,
        f"the loss has no second derivative: {reason}",
        "replace the operation by torch's own, which can be differentiated twice (a fused kernel or an autograd "
        "Function marked once_differentiable cannot), or leave the Hessian's measures out",
    )


# Every function so marked shares this code.
_ONCE = once_differentiable(lambda ctx: None).__code__


def _refuse_once_differentiable(here: Evaluation, value: Tensor) -> None:
    """Torch only notices such a Function where its incoming gradient depends on the weights; otherwise it takes what
    comes out of it for a constant, and the curvature would be wrong without a word."""
    waiting, seen = [value.grad_fn], {value.grad_fn}
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        function: Any = getattr(type(node), "_forward_cls", None)
        if getattr(getattr(function, "backward", None), "__code__", None) is _ONCE:
            raise _no_second_derivative(here, f"{function.__name__}.backward is marked once_differentiable")
        for following, _ in node.next_functions:
            if following not in seen:
                seen.add(following)
                waiting.append(following)


def _inner(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    device = first[0].device
    terms = [(one * other).sum().to(device) for one, other in zip(first, second, strict=True)]
    return torch.stack(terms).sum()
