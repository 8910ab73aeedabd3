"""Losses of single examples, out of a loss that only gives their mean."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from thunderstone_sharpness.measures.errors import MeasureError
from thunderstone_sharpness.measures.evaluation import Loss, size_of

PerExampleLoss = Callable[[nn.Module, Any], Tensor]
"""``losses(module, batch)``: one loss for each example, shape (n,)."""

_REDUCING: dict[Any, inspect.Signature] = {}
for _function in vars(nn.functional).values():
    if inspect.isfunction(_function) and "reduction" in inspect.signature(_function).parameters:
        _REDUCING[_function] = inspect.signature(_function)


class _Unreduced(TorchFunctionMode):
    """Keeps what torch's loss functions would return with ``reduction="none"``; they return what they always do."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        signature = _REDUCING.get(func)
        if signature is not None:
            call = signature.bind(*args, **(kwargs or {}))
            call.arguments.update(reduction="none")
            for deprecated in ("size_average", "reduce"):
                call.arguments.pop(deprecated, None)
            self.found.append(func(*call.args, **call.kwargs))
        return result


@torch.no_grad()
def per_example_losses(loss: Loss, module: nn.Module, batch: Any) -> Tensor:
    """The loss of each example of a batch.

    Where `loss` is the mean of one of torch's loss functions (``F.cross_entropy`` and the like, also through their
    modules), one forward pass is enough: the function's unreduced values are taken, and it is checked that their mean
    is the loss. Anything else is evaluated on batches of a single example.

    Args:
        loss: ``loss(module, batch)``, the mean loss of a batch. The module should be in evaluation mode: an example's
            loss must not depend on its neighbours.
        module: The module.
        batch: Tensors, and lists of as many items as there are examples, in containers.

    Returns:
        Shape (n,), float32 or float64, on the device of the loss.

    Raises:
        MeasureError: `loss` does not return one number.
    """
    size = size_of(batch)
    with _Unreduced() as unreduced:
        mean = _number(loss(module, batch))
    if len(unreduced.found) == 1:
        each: Tensor = unreduced.found[0].detach()
        if each.ndim and each.shape[0] == size:
            each = each.reshape(size, -1).to(mean.dtype).mean(dim=1)
            if torch.allclose(each.mean(), mean, rtol=1e-4, atol=1e-6, equal_nan=True):
                return each
    return torch.stack([_number(loss(module, _example(batch, number, size))) for number in range(size)])


def _number(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise MeasureError("per_example_losses", f"the loss is {shape}", "return the mean loss of the batch")
    number: Tensor = value.detach().reshape(())
    return number if number.dtype == torch.float64 else number.float()


def _example(batch: Any, number: int, size: int) -> Any:
    """The example as a batch of one."""
    if isinstance(batch, Tensor):
        return batch[number : number + 1] if batch.ndim and batch.shape[0] == size else batch
    if isinstance(batch, Mapping):
        entries = {key: _example(inner, number, size) for key, inner in batch.items()}
        return entries if type(batch) is dict else type(batch)(entries)  # type: ignore[call-arg]
    if isinstance(batch, (list, tuple)):
        columns = any(isinstance(inner, Tensor) and inner.ndim and inner.shape[0] == size for inner in batch)
        if len(batch) == size and not columns:
            return batch[number : number + 1]
        inner = [_example(inner, number, size) for inner in batch]
        return type(batch)(*inner) if hasattr(batch, "_fields") else type(batch)(inner)
    return batch
