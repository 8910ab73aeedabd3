"""A module's loss on fixed batches, as a function of its weights and of nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thunderstone import ArgumentError
from thunderstone.isolation import ModuleState
from thunderstone.tensor_lists import copy_into
from thunderstone_sharpness.measures.errors import MeasureError, first_line
from thunderstone_sharpness.measures.logits import with_normalised_logits
from thunderstone_sharpness.measures.stillness import differentiable, fixed_randomness, outside_inference, unchanged

Loss = Callable[[nn.Module, Any], Tensor]
"""``loss(module, batch)``: the mean loss of the batch's examples, a tensor with one element."""

_FINITE = "measure a module whose loss is finite; look for a diverged run, a learning rate too high, or bad data"


class Evaluation:
    """The loss as a function of the weights. Made by `evaluation`; valid inside of it.

    Every call sees the same mode, statistics and random state, so a loss that draws (a variational layer) is one fixed
    function, the same in every measurement, and calls do not add up in counters or lists.

    Attributes:
        measure: Who measures, for messages.
        parameters: Those that require a gradient, each once. Only these are moved.
        names: Their qualified names.
        origin: Copies of their values when the measure began.
        batches: The batches, at least one.
        sizes: Number of examples in each.
    """

    def __init__(self, measure: str, module: nn.Module, batches: Sequence[Any], loss: Loss) -> None:
        self.measure = measure
        self.module = module
        self.batches = batches
        self.sizes = [size_of(batch) for batch in batches]
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.origin = [parameter.detach().clone() for parameter in self.parameters]
        # Whether the graph has been looked through for what has no second derivative.
        self.checked = False
        self._loss = loss
        self._random = fixed_randomness(self.parameters[0].device)
        self._state = ModuleState(module)

    def move_to(self, values: Sequence[Tensor]) -> None:
        """Write `values` (parallel to `parameters`) into the weights."""
        copy_into(self.parameters, values)

    def loss(self, batch: Any, where: str = "", *, finite: bool = True) -> Tensor:
        """The loss of one batch at the present weights, 0-d.

        Args:
            batch: One of `batches`.
            where: Words that say where the weights are, for messages; empty at the origin.
            finite: Refuse NaN and infinite losses.

        Raises:
            MeasureError: It is not one number, or not finite.
        """
        self._state.restore()
        self._random.restore()
        value = self._loss(self.module, batch)
        if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
            shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise MeasureError(self.measure, f"the loss is {shape}", "return the mean loss of the batch as one number")
        value = value.reshape(())
        if finite and not torch.isfinite(value.detach()):
            hint = "choose a smaller radius or span" if where else _FINITE
            raise MeasureError(self.measure, f"the loss is {value.item()}{where}", hint)
        return value

    def gradient(self, batch: Any, where: str = "", *, create_graph: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Loss and gradient of one batch, the gradient parallel to `parameters` (zeros where there is none).

        Raises:
            MeasureError: The loss has no graph, does not depend on the weights, or cannot be differentiated.
        """
        value = self.loss(batch, where)
        if not value.requires_grad:
            raise MeasureError(
                self.measure,
                "the loss has no graph, so there is no derivative with respect to the weights",
                "compute it from the module's output with torch operations, without detach(), item() or no_grad()",
            )
        try:
            found = torch.autograd.grad(value, self.parameters, create_graph=create_graph, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise MeasureError(
                self.measure,
                f"the loss cannot be differentiated: {first_line(error)}",
                "activation checkpointing needs use_reentrant=False; other operations need a backward of torch's own",
            ) from error
        if all(gradient is None for gradient in found):
            raise MeasureError(
                self.measure,
                "the loss depends on none of the module's trainable parameters",
                "check that `loss` uses the module it is handed, not another copy of it",
            )
        dense = [
            torch.zeros_like(parameter) if gradient is None else _dense(gradient)
            for gradient, parameter in zip(found, self.parameters, strict=True)
        ]
        return value, dense

    @torch.no_grad()
    def mean(self, *, finite: bool = True) -> float:
        """Mean loss over all examples at the present weights; `finite` as in `loss`."""
        losses = [self.loss(batch, finite=finite).item() for batch in self.batches]
        return sum(size * loss for size, loss in zip(self.sizes, losses, strict=True)) / sum(self.sizes)


@contextmanager
def evaluation(
    measure: str,
    module: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    *,
    twice: bool = False,
    normalise_logits: bool | str = False,
) -> Iterator[Evaluation]:
    """An `Evaluation` in evaluation mode; afterwards module, gradients and random states are the same bits as before.

    Args:
        measure: Who measures, for messages.
        module: The module; on the device on which `loss` expects it.
        batches: What `loss` is called with, one at a time; at least one.
        loss: See `Loss`.
        twice: Second derivatives are needed.
        normalise_logits: See `with_normalised_logits`.

    Raises:
        ArgumentError: There are no batches.
        MeasureError: No parameter of the module requires a gradient.
    """
    _check_callable(measure, loss)
    with differentiable(module, twice=twice):
        fixed = [outside_inference(batch) for batch in batches]
        if not fixed:
            raise ArgumentError(measure, "batches", fixed, "there is nothing to measure on", "pass one batch or more")
        if not any(parameter.requires_grad for parameter in module.parameters()):
            problem = f"no parameter of {type(module).__name__} requires a gradient"
            raise MeasureError(measure, problem, "unfreeze what is to be measured with requires_grad_(True)")
        with unchanged(module), with_normalised_logits(measure, module, normalise_logits):
            module.eval()
            yield Evaluation(measure, module, fixed, loss)


def _check_callable(measure: str, loss: object) -> None:
    if not callable(loss):
        hint = "pass a function loss(module, batch) that returns the batch's mean loss"
        raise ArgumentError(measure, "loss", loss, f"it must be callable, not {type(loss).__name__}", hint)


def size_of(batch: Any) -> int:
    """Number of examples in a batch: the length of the first tensor in it that has a dimension; 1 if there is none."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.ndim else 1
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        for inner in batch:
            if _has_length(inner):
                return size_of(inner)
    return 1


def _has_length(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim > 0
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, (list, tuple)) and any(_has_length(inner) for inner in value)


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient
