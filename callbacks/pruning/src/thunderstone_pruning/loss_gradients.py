"""Gradients of the loss on some training batches, without a trace."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from thunderstone import Method, StepError
from thunderstone.isolation import training_pass
from thunderstone_pruning.pruning_method import refuse_manual_optimization

# Half precision overflows with the first scales of a GradScaler; where that happens a smaller one is used.
_SMALLER = 2.0**-8


def loss_gradients(
    method: Method,
    trainer: Trainer,
    module: LightningModule,
    names: Collection[str],
    batches: int = 1,
    occasion: int = 0,
) -> dict[str, Tensor]:
    """The mean over batches of the gradients of the loss at the present weights, by parameter name.

    Training goes on as if nothing had been: data, random states, metrics, logs, statistics and gradients are as
    before. Averaged over replicas; to be called on every process, from `on_train_start` on. A parameter that the loss
    does not reach has a gradient of zero.

    Args:
        method: Who asks.
        trainer: The running Trainer.
        module: The LightningModule.
        names: Of which parameters.
        batches: How many; those for which `training_step` returns None are passed over.
        occasion: Other batches for another number.

    Raises:
        StepError: No batch has a loss.
        UnsupportedSettingError: The module steps its optimizers itself, or its data can be read only once.
    """
    who = type(method).__name__
    instead = "use a method that looks at weights alone, e.g. GradualPruning"
    refuse_manual_optimization(who, module, "gradients", instead)
    total: dict[str, Tensor] = {}
    found = 0
    attachment = method.attachment
    phase = method.progress("gradients", min(batches, trainer.num_training_batches))
    with phase, training_pass(who, trainer, module, occasion) as drawn:
        for batch in drawn:
            gradients, losses = _one(method, trainer, attachment.micro_batch(batch))
            if losses == 0:
                continue
            for name in names:
                gradient = gradients.get(name)
                if gradient is not None:
                    gradient = gradient.to_dense() if gradient.is_sparse else gradient
                    total[name] = total[name] + gradient if name in total else gradient.clone()
            found += 1
            phase.advance()
            if found == batches:
                break
    if found == 0:
        raise StepError(f"{who}: training_step returned no loss for any batch. HINT: return the loss of a batch")
    parameters = dict(module.named_parameters())
    zero = torch.zeros
    return {
        name: total[name] / found if name in total else zero(parameters[name].shape, device=parameters[name].device)
        for name in names
    }


def _one(method: Method, trainer: Trainer, micro_batch: Any) -> tuple[dict[str, Tensor | None], int]:
    scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
    before = {} if scaler is None else scaler.state_dict()
    scale = before.get("scale", 1.0)
    try:
        while True:
            rehearsal = method.attachment.rehearse([micro_batch], without=method)
            present = [gradient for gradient in rehearsal.before if gradient is not None]
            if not before or scale <= 1 or all(bool(gradient.isfinite().all()) for gradient in present):
                return dict(zip(rehearsal.names, rehearsal.before, strict=True)), rehearsal.losses
            scale = max(1.0, scale * _SMALLER)
            scaler.load_state_dict({**before, "scale": scale})
    finally:
        if before:
            scaler.load_state_dict(before)
