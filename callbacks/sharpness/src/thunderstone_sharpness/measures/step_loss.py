"""The loss a Lightning module is measured with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from thunderstone import ArgumentError, UnsupportedSettingError
from thunderstone.isolation import copy_containers, loss_of
from thunderstone_sharpness.measures.dotted import load_dotted
from thunderstone_sharpness.measures.errors import MeasureError
from thunderstone_sharpness.measures.evaluation import Loss

LossArgument = Callable[[nn.Module, Any], Tensor] | str | None


def check_loss(method: str, argument: str, value: object) -> None:
    """Refuse what can be neither a function nor the name of one; names are looked up by `module_loss`."""
    if value is not None and not isinstance(value, str) and not callable(value):
        reason = f"it must be a function or a name, not {type(value).__name__}"
        hint = f"pass {argument}=function(module, batch), the name of a method of the module, or package.module:name"
        raise ArgumentError(method, argument, value, reason, hint)


def module_loss(method: str, argument: str, value: LossArgument, module: LightningModule) -> Loss:
    """The function ``(module, batch) -> tensor`` that `value` stands for.

    Args:
        method: Who asks, for messages.
        argument: The argument's name.
        value: A function ``(module, batch)``, the name of a method of the module that takes the batch, a function's
            ``"package.module:name"``, or None for the module's own `training_step`.
        module: The module.

    Raises:
        ArgumentError: There is no such method or function.
        UnsupportedSettingError: There is nothing to call: `training_step` does more than compute a loss.
    """
    if value is None:
        return _training_step(method, argument, module)
    if not isinstance(value, str):
        return value
    if ":" in value:
        found = load_dotted(method, argument, value)
        if not callable(found):
            raise ArgumentError(method, argument, value, f"it is {type(found).__name__}", "name a function")
        return lambda owner, batch: found(owner, own_copy(batch))
    own = getattr(module, value, None)
    if not callable(own):
        reason = f"{type(module).__name__} has no method of that name"
        raise ArgumentError(method, argument, value, reason, "name a method that takes a batch, or package.module:name")
    return lambda owner, batch: getattr(owner, value)(own_copy(batch))


def own_copy(batch: Any) -> Any:
    """A batch that the callee may change: new containers, new tensors."""
    return apply_to_collection(copy_containers(batch), Tensor, lambda tensor: tensor.clone())


def _training_step(method: str, argument: str, module: LightningModule) -> Loss:
    way_out = f"pass {argument}=function(module, batch), or the name of a method that returns the loss of a batch"
    if not module.automatic_optimization:
        setting = f"manual optimization ({type(module).__name__}.automatic_optimization is False)"
        reason = "training_step steps the optimizers itself, so it cannot be called to look at the loss"
        raise UnsupportedSettingError(method, setting, reason, way_out)
    parameters = inspect.signature(type(module).training_step).parameters
    if "dataloader_iter" in parameters:
        reason = "training_step draws its batches itself, so it cannot be called on others"
        raise UnsupportedSettingError(method, "training_step(self, dataloader_iter)", reason, way_out)
    with_index = len(parameters) > 2 or "batch_idx" in parameters

    def loss(owner: nn.Module, batch: Any) -> Tensor:
        step: Callable[..., Any] = owner.training_step  # type: ignore[assignment]
        value = loss_of(step(own_copy(batch), 0) if with_index else step(own_copy(batch)))
        if value is None:
            raise MeasureError(method, "training_step returned no loss in evaluation mode", way_out)
        return value

    return loss
