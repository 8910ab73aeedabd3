"""Keeping masked weights, their gradients and their optimizer slots at zero while a fit runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.optim import Optimizer

from thunderstone.attachment.masks import Masks
from thunderstone.errors import ArgumentError
from thunderstone.lightning_private import average_models, callbacks_of, set_callbacks

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class MaskEnforcement:
    """Enforces the masks of one method during one fit. Does nothing at all while there are none.

    The strategy's `optimizer_step` is wrapped below the attachment's own wrapper: gradients are masked when all hooks
    have seen them and clipping has not run, weights and slots when the optimizer has stepped and `after_update` has
    not run. What moves weights elsewhere is caught at the end of training: averaging callbacks put their averages into
    the module then. A module that steps its optimizers itself is enforced after every `training_step` too, since it may
    go past Lightning's wrapper.

    Args:
        trainer: The Trainer.
        module: The LightningModule being fitted.
        masks: The owner's masks.

    Attributes:
        keep_dense_gradients: Keep the next masked gradients as they were.
        dense_gradients: Those.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, masks: Masks) -> None:
        self.trainer, self.module, self.masks = trainer, module, masks
        self.keep_dense_gradients = False
        self.dense_gradients: dict[str, Tensor] = {}
        self._parameters: dict[str, nn.Parameter] = {}
        self._guard: Callback | None = None
        self._original: dict[str, Callable[..., Any]] = {}
        self._patched_before: dict[str, Any] = {}

    # -- life cycle ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The strategy and the optimizers are set up."""
        strategy = self.trainer.strategy
        wrappers = {"optimizer_step": self._optimizer_step}
        if not self.module.automatic_optimization:
            wrappers["training_step"] = self._training_step
        self._patched_before = {name: vars(strategy)[name] for name in wrappers if name in vars(strategy)}
        self._original = {name: getattr(strategy, name) for name in wrappers}
        vars(strategy).update(wrappers)
        self._guard = _Guard(self)
        callbacks = list(callbacks_of(self.trainer))
        # After everything that moves weights, before what writes them to a file.
        place = len(callbacks)
        while place and isinstance(callbacks[place - 1], Checkpoint):
            place -= 1
        set_callbacks(self.trainer, [*callbacks[:place], self._guard, *callbacks[place:]])
        self.masks.enforced_by(self, self.module)

    def stop(self) -> None:
        """Leave sparse weights and nothing else. Safe to call more than once, and when `start` never was."""
        if not self._original:
            return
        for name in self._original:
            vars(self.trainer.strategy).pop(name, None)
        self._original = {}
        vars(self.trainer.strategy).update(self._patched_before)
        guarded = [callback for callback in callbacks_of(self.trainer) if callback is not self._guard]
        set_callbacks(self.trainer, guarded)
        # An interrupted update may have been between the optimizer and the masks.
        self.enforce([])
        self.dense_gradients = {}
        self.masks.enforced_by(None, self.module)

    # -- changing masks ------------------------------------------------------------------------------------------------

    def replace(self, masks: Mapping[str, Tensor]) -> None:
        """See `Masks.set`."""
        self.hold(self._of_rank_zero(masks))
        self.enforce(self.trainer.optimizers)
        self._mask_gradients()
        self._mask_averages()

    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Take checked masks, without enforcing them."""
        parameters = dict(self.module.named_parameters())
        self._parameters = {name: parameters[name] for name in masks}
        kept: dict[str, Tensor] = {}
        for name, mask in masks.items():
            parameter = self._parameters[name]
            # Of the parameter's memory format, so that one pass goes over both.
            integers = torch.empty_like(parameter, dtype=_INTEGERS.get(parameter.element_size(), torch.bool))
            kept[name] = integers.copy_(mask)
        self.masks.integers = kept

    def _of_rank_zero(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.trainer.world_size == 1:
            return self.masks.check(self.module, masks)
        checked: dict[str, Tensor] = {}
        error: ArgumentError | None = None
        if self.trainer.is_global_zero:
            try:
                checked = self.masks.check(self.module, masks)
            except ArgumentError as refused:
                error = refused
        # The refusal too: a rank that raises alone leaves the others waiting for it.
        names, error = self.trainer.strategy.broadcast((list(checked), error))
        if error is not None:
            raise error
        parameters = dict(self.module.named_parameters())
        sizes = [parameters[name].numel() for name in names]
        device = self.trainer.strategy.root_device
        if checked:
            flat = torch.cat([checked[name].to(device, torch.uint8).flatten() for name in names])
        else:
            flat = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
        if names:
            dist.broadcast(flat, 0)
        parts = zip(names, flat.split(sizes) if names else (), strict=True)
        return {name: part.view(parameters[name].shape).bool() for name, part in parts}

    # -- enforcing -----------------------------------------------------------------------------------------------------

    def _optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], *rest: Any, **keywords: Any) -> Any:
        step = self._original["optimizer_step"]

        def closure_then_mask() -> Any:
            result = closure()
            self.mask_gradients()
            return result

        output = step(optimizer, closure_then_mask if self.masks else closure, *rest, **keywords)
        self.enforce([optimizer])
        return output

    def _training_step(self, *arguments: Any, **keywords: Any) -> Any:
        output = self._original["training_step"](*arguments, **keywords)
        self.enforce(self.trainer.optimizers)
        return output

    def mask_gradients(self) -> None:
        """Make gradients zero where weights are pruned, keeping what they were if that was asked for."""
        if self.keep_dense_gradients:
            self.keep_dense_gradients = False
            gradients = {name: parameter.grad for name, parameter in self._parameters.items()}
            self.dense_gradients = {
                name: gradient.detach().to_dense() if gradient.is_sparse else gradient.detach().clone()
                for name, gradient in gradients.items()
                if gradient is not None
            }
        self._mask_gradients()

    @torch.no_grad()
    def mask_apart(self, parameters: Iterable[nn.Parameter], gradients: Iterable[Tensor | None]) -> None:
        """The same for gradients that are not the parameters' own; dense ones only."""
        masks = {id(self._parameters[name]): mask for name, mask in self.masks.integers.items()}
        pairs = [
            (gradient, masks[id(parameter)])
            for parameter, gradient in zip(parameters, gradients, strict=True)
            if gradient is not None and not gradient.is_sparse and id(parameter) in masks
        ]
        zero([gradient for gradient, _ in pairs], [mask for _, mask in pairs])

    def forget_dense_gradients(self) -> None:
        """The update is over."""
        self.keep_dense_gradients = False
        self.dense_gradients = {}

    @torch.no_grad()
    def _mask_gradients(self) -> None:
        tensors: list[Tensor] = []
        kept: list[Tensor] = []
        for name, mask in self.masks.integers.items():
            parameter = self._parameters[name]
            if parameter.grad is None:
                continue
            if parameter.grad.is_sparse:
                gradient = parameter.grad.coalesce()
                zero([gradient.values()], [mask[tuple(gradient.indices())]])
                parameter.grad = gradient
                continue
            tensors.append(parameter.grad)
            kept.append(mask)
        zero(tensors, kept)

    @torch.no_grad()
    def enforce(self, optimizers: Iterable[Optimizer]) -> None:
        """Make weights zero where they are pruned, and the slots of these optimizers."""
        tensors: list[Tensor] = []
        kept: list[Tensor] = []
        optimizers = list(optimizers)
        for name, mask in self.masks.integers.items():
            parameter = self._parameters[name]
            tensors.append(parameter)
            kept.append(mask)
            for optimizer in optimizers:
                for slot in optimizer.state.get(parameter, {}).values():
                    if _is_slot(slot, parameter):
                        tensors.append(slot)
                        kept.append(mask)
        zero(tensors, kept)

    @torch.no_grad()
    def _mask_averages(self) -> None:
        for average in average_models(self.trainer):
            named = dict(average.named_parameters())
            for name, mask in self.masks.integers.items():
                if name in named and named[name].shape == mask.shape:
                    zero([named[name]], [mask.to(named[name].device)])

    def after_training(self) -> None:
        """What averaging callbacks have put into the module is sparse too."""
        self.enforce(self.trainer.optimizers)
        self._mask_averages()


def _is_slot(value: Any, parameter: nn.Parameter) -> bool:
    # Counters of 0-d weights have the weight's shape; quantised slots are codes, in which zero is not 0.
    if not isinstance(value, Tensor) or value.shape != parameter.shape or not parameter.dim():
        return False
    return value.is_floating_point() or value.is_complex()


def zero(tensors: list[Tensor], kept: list[Tensor]) -> None:
    """Make tensors exactly zero where `kept` is 0 and leave every other bit alone, in place.

    The bits are multiplied as integers of the same width: unlike a product of floats that turns NaN and infinity into
    zero as well and never leaves −0, and unlike a masked fill it is as fast as memory.

    Args:
        tensors: Floating-point or complex, any shapes.
        kept: 0 and 1, of the same shapes and on the same devices, in integers of any width (fastest: of the same).
    """
    views: list[Tensor] = []
    factors: list[Tensor] = []
    for tensor, mask in zip(tensors, kept, strict=True):
        integers = _INTEGERS.get(tensor.element_size())
        if integers is None:
            tensor.detach().masked_fill_(mask == 0, 0)
            continue
        views.append(tensor.detach().view(integers))
        factors.append(mask if mask.dtype == integers else mask.to(integers))
    if views:
        torch._foreach_mul_(views, factors)


class _Guard(Callback):
    """Enforces where no optimizer steps; last in the list but for checkpoints."""

    def __init__(self, enforcement: MaskEnforcement) -> None:
        self.enforcement = enforcement

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # After a resume: weights and slots were read from the checkpoint.
        self.enforcement.enforce(trainer.optimizers)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.enforcement.after_training()
