"""Memory-efficient sharpness-aware training."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.func import functional_call

from thunderstone import LossStep, Method, StepError, UpdateStep, hookimpl
from thunderstone.arguments import captured, finite, whole
from thunderstone_sharpness.consistency import check_logits, class_dimension, metric_name, trajectory_loss
from thunderstone_sharpness.further_pass import without_trace
from thunderstone_sharpness.replicas import broadcast_from_first, exchange_device

_SHARDED = "its averaged weights are a whole copy of the module, which no process holds under sharding"


class MESA(Method):
    """Keeps predictions near those of the averaged weights: SAF without a memory of samples.

    Adds ``weight * mean KL(softmax(z_average / tau) || softmax(z / tau))`` to the loss, where ``z_average`` are the
    logits of an exponential moving average of parameters and buffers, in evaluation mode and without gradient, on the
    very inputs the module got. Du et al. 2022, arXiv 2205.14083, section 4.2. Cost: one more forward pass of the
    captured module once the penalty acts, and one copy of the weights. The further pass leaves no trace: random states,
    metrics, logged values and statistics kept by the module see one pass.

    Args:
        weight: lambda, 0 or more; 0 switches the method off. The paper uses 0.8.
        decay: Of the average at every update, in [0, 1). The released code uses 0.9998; short runs want less.
        temperature: tau, above 0. The paper uses 5.
        start_epoch: First epoch with the penalty, counted from 0. The paper uses 5. The average runs from the start.
        output: Where the logits come from: None for the module's own forward, or the name of a submodule, with an
            entry after a colon where the output is no tensor (``"net"``, ``"net:logits"``). Name the whole network: of
            a head alone only the head is averaged, and its input is that of the current weights.
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
        self.decay = finite("MESA", "decay", decay, "use 0.9 to 0.9998", minimum=0, below=1)
        self.temperature = finite("MESA", "temperature", temperature, "the paper uses 5", above=0)
        self.start_epoch = whole("MESA", "start_epoch", start_epoch, "the paper uses 5; 0 starts at once", minimum=0)
        captured("MESA", output, call)
        self.output = output
        self.call = call
        self.class_dim = class_dimension("MESA", class_dim)
        self._average: dict[str, Tensor] = {}
        self._loaded = False

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged parameters and buffers by name: loads into the plain module with `load_state_dict`.

        Kept in float32 where the module is in half precision, in which a slow average would not move at all.

        Raises:
            StepError: Nothing was averaged yet.
        """
        if not self._average:
            raise StepError("MESA has averaged nothing yet. HINT: read `average` during or after a fit with weight > 0")
        return dict(self._average)

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the logits captured; a fit that resumes nothing begins an average of its own."""
        self._average, self._loaded = {}, False
        if self.weight > 0:
            self._capture = self.attachment.capture(self, self.output, self.call)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the average at the weights training begins from, unless a checkpoint brought one."""
        if self.weight == 0:
            return
        live = _tensors(pl_module)
        kept = self._average if self._loaded else {}
        self._loaded = False
        self._average = {
            name: value.to(live[name].device, _wide(live[name].dtype)) for name, value in kept.items() if name in live
        }
        self._follow(live)

    def _follow(self, live: dict[str, Tensor]) -> None:
        """Hold what the module holds: modules gain layers, and make or resize buffers, while they train."""
        shapes = {name: value.shape for name, value in self._average.items()}
        if shapes != {name: value.shape for name, value in live.items()}:
            self._average = {
                name: self._average[name] if shapes.get(name) == value.shape else _copy(value)
                for name, value in live.items()
            }

    @hookimpl
    def after_update(self, step: UpdateStep) -> None:
        """Move the average towards the new weights."""
        if self.weight == 0 or step.skipped:
            return
        live = _tensors(step.module)
        self._follow(live)
        smooth = [name for name, value in self._average.items() if value.is_floating_point() or value.is_complex()]
        with torch.no_grad():
            averaged = [self._average[name] for name in smooth]
            present = [live[name].detach().to(self._average[name].dtype) for name in smooth]
            torch._foreach_lerp_(averaged, present, 1 - self.decay)
            for name, value in self._average.items():
                if not (value.is_floating_point() or value.is_complex()):
                    value.copy_(live[name])
        device = exchange_device(step.trainer)
        if device is not None:
            # Each replica has running statistics of its own between two forward passes; the first one's count.
            statistics = [
                value
                for name, value in self._average.items()
                if value.is_floating_point() and not isinstance(live[name], nn.Parameter)
            ]
            broadcast_from_first(statistics, device)

    @hookimpl
    def loss_terms(self, step: LossStep) -> dict[str, Tensor] | None:
        """The divergence from the averaged weights' predictions."""
        if self.weight == 0 or step.trainer.current_epoch < self.start_epoch:
            return None
        call = step.call(self._capture)
        present = self._capture.tensor(call.output)
        check_logits("MESA", present, self.class_dim)
        target = self._capture.target
        self._follow(_tensors(step.module))
        # The names of tied weights are all there, each with its own copy of the same average.
        weights = self._weights_of(target)
        versions = _versions(call.arguments, call.keywords)
        with without_trace(step.trainer, step.module, target):
            output = functional_call(target, weights, call.arguments, call.keywords, tie_weights=False)
        if _versions(call.arguments, call.keywords) != versions:
            raise StepError(
                f"MESA: {self._capture.described} changes its input in place, so that the average was given another "
                "input than the weights. HINT: capture a module that leaves its input alone, or have this one copy it"
            )
        past = self._capture.tensor(output)
        term = self.weight * trajectory_loss(past, present, self.temperature, self.class_dim)
        return {metric_name("trajectory_loss", self, self.output, step.trainer): term}

    def _weights_of(self, target: nn.Module) -> dict[str, Tensor]:
        prefix = f"{self._capture.name}." if self._capture.name else ""
        weights = {}
        for name, live in _tensors(target).items():
            average = self._average[f"{prefix}{name}"]
            # A module that updates a buffer in every mode must not update the average's.
            weights[name] = average.to(live.dtype, copy=not isinstance(live, nn.Parameter))
        return weights

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return {"average": dict(self._average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved average."""
        self._average = dict(state_dict["average"])
        self._loaded = True


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    # Not `state_dict`, which modules override and hook: what they leave out or rename is still part of the forward.
    # Buffers that no checkpoint holds (masks, caches of positions) are recomputed rather than learned.
    passing = {
        f"{path}.{name}" if path else name
        for path, child in module.named_modules(remove_duplicate=False)
        for name in child._non_persistent_buffers_set
    }
    buffers = module.named_buffers(remove_duplicate=False)
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **{name: value for name, value in buffers if name not in passing},
    }


def _versions(*inputs: Any) -> list[int]:
    versions: list[int] = []
    apply_to_collection(inputs, Tensor, lambda tensor: versions.append(tensor._version))
    return versions


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype


def _copy(value: Tensor) -> Tensor:
    return value.detach().to(_wide(value.dtype), copy=True)
