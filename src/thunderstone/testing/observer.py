"""What the kit sees of a run: a callback behind all others, and counters in the module's own hooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric

# How a loss comes about, which a method may go through again; all other hooks are events, and happen once.
_PASSES = frozenset({"backward"})
_EVENTS = (
    "backward",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "optimizer_step",
    "optimizer_zero_grad",
    "setup",
    "teardown",
    "transfer_batch_to_device",
)


def counted(module: LightningModule, counts: Counter[str]) -> LightningModule:
    """The module, with every call of its hooks counted.

    The counter is out of the module's reach: one the module held would be put back together with its statistics.
    """
    cls = type(module)
    names = [name for name in dir(LightningModule) if name.startswith("on_")] + list(_EVENTS)
    overrides = {name: _counting(getattr(cls, name), name, counts) for name in names if name not in _PASSES}
    module.__class__ = type(cls.__name__, (cls,), {**overrides, "__module__": cls.__module__})
    return module


def _counting(function: Callable[..., Any], name: str, counts: Counter[str]) -> Callable[..., Any]:
    @wraps(function)
    def call(self: LightningModule, *arguments: Any, **keywords: Any) -> Any:
        counts[name] += 1
        return function(self, *arguments, **keywords)

    return call


class CallbackEvents(Callback):
    """A user's callback that counts how often each of its hooks is called."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts


def _event(name: str) -> Callable[..., None]:
    def call(self: CallbackEvents, *_: Any, **__: Any) -> None:
        self._counts[f"Callback.{name}"] += 1

    return call


for _name in [name for name in dir(Callback) if name.startswith("on_")]:
    setattr(CallbackEvents, _name, _event(_name))


class Observer(Checkpoint):
    """Looks at a run after every other callback: a Checkpoint, since Lightning calls those last.

    Attributes:
        counts: Events by name: hooks of the module and of a callback, optimizer steps, metric updates.
        first_buffers: The module's buffers after the first batch.
        first_metrics: `trainer.callback_metrics` after the first batch.
        initial: Parameters before the first batch.
        weights: Parameters after the latest batch, or before the first.
        gradient_norms: L2 norm of all gradients, as the optimizer sees them, for each step.
        gradient_maxima: Largest absolute gradient, for each step.
    """

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts
        self.first_buffers: dict[str, Tensor] = {}
        self.first_metrics: dict[str, Any] = {}
        self.initial: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        self.gradient_norms: list[float] = []
        self.gradient_maxima: list[float] = []
        self._handles: list[Any] = []
        self._begun = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.initial = parameters_of(pl_module)
        self.weights = parameters_of(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._handles = [optimizer.register_step_pre_hook(self._step) for optimizer in trainer.optimizers]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.weights = parameters_of(pl_module)
        if not self._begun:
            self._begun = True
            self.first_buffers = {name: value.detach().clone() for name, value in pl_module.named_buffers()}
            self.first_metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        for path, child in pl_module.named_modules():
            if isinstance(child, Metric):
                self.counts[f"updates of {path} by batch {batch_idx}"] = child.update_count

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._remove()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._remove()

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _step(self, optimizer: Optimizer, *_: Any) -> None:
        self.counts["optimizer.step"] += 1
        gradients = [p.grad.detach() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients:
            self.gradient_norms.append(float(torch.stack([g.double().norm() for g in gradients]).norm()))
            self.gradient_maxima.append(max(float(gradient.abs().max()) for gradient in gradients))


def parameters_of(module: LightningModule) -> dict[str, Tensor]:
    """A copy of every parameter by name."""
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
