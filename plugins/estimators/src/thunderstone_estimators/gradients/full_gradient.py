"""The gradient over all of the training data at the present weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from thunderstone import StepError, UnsupportedSettingError
from thunderstone.isolation import (
    ModuleState,
    UntrainedParameters,
    copy_containers,
    loss_of,
    silenced,
    training_pass,
)
from thunderstone.tensor_lists import total_norm


@dataclass(frozen=True)
class FullGradient:
    """What `full_gradient` found.

    Attributes:
        gradients: One a parameter, in its precision, the same bits on every replica; None where no batch gave one.
        norm: Their L2 norm together. Not finite where a loss or a gradient was not.
        examples: How many examples the mean is over, those of all replicas together.
        first_bad: Number of this replica's first batch whose loss was not finite; -1 if there was none.
    """

    gradients: list[Tensor | None]
    norm: float
    examples: int
    first_bad: int


def full_gradient(
    who: str,
    trainer: Trainer,
    module: LightningModule,
    parameters: Sequence[nn.Parameter],
    after_batch: Callable[[], None] = lambda: None,
) -> FullGradient:
    """Go over the training data once more and leave no trace.

    The mean over examples of the gradient of what `training_step` returns (its mean over a batch's examples is
    assumed), in training mode. Statistics, metrics, counters, logs, ``.grad`` and random states are as before.

    Args:
        who: Who asks, for messages.
        trainer: The running Trainer.
        module: Its module.
        parameters: With respect to what.
        after_batch: Called after each batch, to show how far it is.

    Raises:
        StepError: No batch gave a loss.
        UnsupportedSettingError: The data can be gone over only once, or a gradient is sparse.
    """
    device = trainer.strategy.root_device
    sums = [torch.zeros_like(p, dtype=_wide(p.dtype), requires_grad=False) for p in parameters]
    present = torch.zeros(len(sums), device=device)
    examples, first_bad = 0, torch.tensor(-1, device=device)
    # Half-precision gradients underflow where the loss is not scaled up, as in training.
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    scale = float(scaler.get_scale()) if scaler is not None else 1.0
    with _untouched(trainer, module) as restore, training_pass(who, trainer, module, trainer.current_epoch) as batches:
        for drawn in batches:
            while True:
                loss = _backward(trainer, module, drawn.batch, drawn.number, scale)
                gradients = [parameter.grad for parameter in parameters]
                _clear(module)
                restore()
                if scale <= 1 or bool(total_norm(gradients).isfinite()):
                    break
                scale /= 2
            after_batch()
            if loss is None:
                continue
            _check_dense(who, module, parameters, gradients)
            size = examples_in(drawn.batch)
            examples += size
            first_bad = torch.where((first_bad < 0) & ~loss.isfinite(), drawn.number, first_bad)
            for number, gradient in enumerate(gradients):
                if gradient is not None:
                    sums[number].add_(gradient, alpha=size / scale)
                    present[number] = 1
    total = _joined(trainer, sums, present, examples)
    if not total:
        hint = "look at the training data, or at why training_step returned None"
        raise StepError(f"{who}: in a pass over the training data no batch gave a loss. HINT: {hint}")
    means: list[Tensor | None] = [
        (one / total).to(parameter.dtype) if there else None
        for one, parameter, there in zip(sums, parameters, present.tolist(), strict=True)
    ]
    return FullGradient(means, float(total_norm(means)), total, int(first_bad))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _backward(trainer: Trainer, module: LightningModule, batch: Any, number: int, scale: float) -> Tensor | None:
    """Gradients into `.grad`; the loss as it was, or None where there is none."""
    names = list(inspect.signature(module.training_step).parameters)
    batch = copy_containers(batch)
    arguments = (batch, number) if len(names) > 1 or "batch_idx" in names else (batch,)
    # Not through the strategy: under data parallelism each replica sums its own, and they are joined once.
    with trainer.precision_plugin.train_step_context():
        loss = loss_of(module.training_step(*arguments))
    if loss is not None:
        trainer.precision_plugin.backward(loss * scale, module, trainer.optimizers[0])
    return None if loss is None else loss.detach()


@contextmanager
def _untouched(trainer: Trainer, module: LightningModule) -> Iterator[Any]:
    """Yields what puts the module back between two batches."""
    everything = list(module.parameters())
    kept = [parameter.grad for parameter in everything]
    state = ModuleState(module, UntrainedParameters(module, trainer.optimizers))

    def put_back() -> None:
        for parameter, gradient in zip(everything, kept, strict=True):
            parameter.grad = gradient

    with ExitStack() as stack:
        stack.callback(put_back)
        stack.callback(state.restore)
        stack.enter_context(silenced(trainer, module))
        stack.enter_context(torch.enable_grad())
        _clear(module)
        yield state.restore


def _clear(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.grad = None


def _check_dense(
    who: str, module: nn.Module, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]
) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and gradient.is_sparse:
            names = [name for name, other in module.named_parameters() if other is parameter]
            raise UnsupportedSettingError(
                who,
                f"sparse gradients ({', '.join(names)})",
                "the full gradient is dense, and so would be every step",
                "use nn.Embedding(sparse=False)",
            )


def _joined(trainer: Trainer, sums: list[Tensor], present: Tensor, examples: int) -> int:
    """Sum over the replicas, in place; returns how many examples there are together."""
    if trainer.world_size == 1 or not (dist.is_available() and dist.is_initialized()):
        return examples
    count = torch.tensor(examples, device=present.device)
    for tensor in (count, present, *sums):
        dist.all_reduce(tensor)
    return int(count)


def examples_in(batch: Any) -> int:
    """Number of examples in a batch: the length of the first tensor in it that has a dimension; 1 if there is none."""
    return _first_length(batch) or 1


def _first_length(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.shape[0] if value.ndim else 0
    inner = list(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(inner, (list, tuple)):
        return 0
    return next((length for length in map(_first_length, inner) if length), 0)
