"""Memory-efficient sharpness-aware training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.func import functional_call

from thunderstone import LossStep, Method, StepError, UpdateStep, hookimpl
from thunderstone.arguments import finite, whole
from thunderstone_sharpness.consistency import trajectory_loss

_SHARDED = "its averaged weights are a whole copy of the module, which no process holds under sharding"


class MESA(Method):
    """Keeps predictions near those of the averaged weights: SAF without a memory of samples.

    Adds ``weight * mean KL(softmax(z_average / tau) || softmax(z / tau))`` to the loss, where ``z_average`` are the
    logits of an exponential moving average of parameters and buffers, in evaluation mode and without gradient, on the
    very inputs the module got. Du et al. 2022, arXiv 2205.14083, section 4.2. Cost: one more forward pass of the
    captured module once the penalty acts, and one copy of the weights.

    Args:
        weight: lambda, 0 or more; 0 switches the method off. The paper uses 0.8.
        decay: Of the average at every update, in [0, 1). The released code uses 0.9998; short runs want less.
        temperature: tau, above 0. The paper uses 5.
        start_epoch: First epoch with the penalty, counted from 0. The paper uses 5. The average runs from the start.
        output: Where the logits come from: None for the module's own forward, or the name of a submodule, with an
            entry after a colon where the output is no tensor (``"net"``, ``"net:logits"``).
        call: Which call of it counts when there are several in a step: 0 the first, -1 the last.
        class_dim: Dimension of the classes in the logits.

    Raises:
        ArgumentError: An argument is out of range, or there is no such submodule.
    """

    name: ClassVar[str] = "mesa"
    identified_by: ClassVar[tuple[str, ...]] = ("output",)
    unsupported_strategies: ClassVar[dict[str, str]] = {"FSDPStrategy": _SHARDED, "ModelParallelStrategy": _SHARDED}

    def __init__(
        self,
        weight: float = 0.8,
        decay: float = 0.9998,
        temperature: float = 5.0,
        start_epoch: int = 5,
        output: str | None = None,
        call: int | None = None,
        class_dim: int = -1,
    ) -> None:
        self.weight = finite("MESA", "weight", weight, "the paper uses 0.8; 0 switches the method off", minimum=0)
        self.decay = finite("MESA", "decay", decay, "use 0.9 to 0.9998", minimum=0, maximum=1 - 1e-12)
        self.temperature = finite("MESA", "temperature", temperature, "the paper uses 5", above=0)
        self.start_epoch = whole("MESA", "start_epoch", start_epoch, "the paper uses 5; 0 starts at once", minimum=0)
        self.output = output
        self.call = call
        self.class_dim = class_dim
        self._average: dict[str, Tensor] = {}

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged parameters and buffers by name: loads into the plain module with `load_state_dict`.

        Raises:
            StepError: Nothing was averaged yet.
        """
        if not self._average:
            raise StepError("MESA has averaged nothing yet. HINT: read `average` during or after a fit with weight > 0")
        return dict(self._average)

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the logits captured."""
        if self.weight > 0:
            self._capture = self.attachment.capture(self, self.output, self.call)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the average at the weights training begins from, unless a checkpoint brought one."""
        if self.weight == 0:
            return
        live = pl_module.state_dict(keep_vars=True)
        kept = self._average if trainer.ckpt_path is not None else {}
        self._average = {
            name: kept[name].to(value.device, value.dtype) if name in kept else value.detach().clone()
            for name, value in live.items()
            if isinstance(value, Tensor)
        }

    @hookimpl
    def after_update(self, step: UpdateStep) -> None:
        """Move the average towards the new weights."""
        if self.weight == 0 or step.skipped:
            return
        live = step.module.state_dict(keep_vars=True)
        smooth = [name for name, value in self._average.items() if value.is_floating_point()]
        with torch.no_grad():
            torch._foreach_lerp_(
                [self._average[name] for name in smooth], [live[name].detach() for name in smooth], 1 - self.decay
            )
            for name, value in self._average.items():
                if not value.is_floating_point():
                    value.copy_(live[name])

    @hookimpl
    def loss_terms(self, step: LossStep) -> dict[str, Tensor] | None:
        """The divergence from the averaged weights' predictions."""
        if self.weight == 0 or step.trainer.current_epoch < self.start_epoch:
            return None
        call = step.call(self._capture)
        target = self._capture.target
        with torch.no_grad(), _evaluating(target):
            # The names of tied weights are all there, each with its own copy of the same average.
            weights = self._within(self._capture.name)
            output = functional_call(target, weights, call.arguments, call.keywords, tie_weights=False)
        present, past = self._capture.tensor(call.output), self._capture.tensor(output)
        return {"trajectory_loss": self.weight * trajectory_loss(past, present, self.temperature, self.class_dim)}

    def _within(self, path: str) -> dict[str, Tensor]:
        prefix = f"{path}." if path else ""
        return {name.removeprefix(prefix): value for name, value in self._average.items() if name.startswith(prefix)}

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return {"average": dict(self._average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved average."""
        self._average = dict(state_dict["average"])


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, training in modes:
            child.training = training
