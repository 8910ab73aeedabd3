"""Gradients that wait in `.grad` between two micro-batches of one update."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor

from thunderstone import lightning_private


def waiting_gradients(trainer: Trainer, module: LightningModule) -> dict[str, Tensor]:
    """The gradients the next batch adds to, by parameter name; empty between two updates.

    Under manual optimization only the module knows when it steps, so there they are always stored. Of a sharded
    gradient the local shard is.
    """
    batch = lightning_private.batch_counts(trainer)
    # A batch under way is begun again: what counts is whether an update was under way before it.
    interrupted = batch.ready > batch.processed and batch.completed % trainer.accumulate_grad_batches != 0
    if module.automatic_optimization and not interrupted and not lightning_private.within_accumulation(trainer):
        return {}
    return {name: _local(p.grad.detach()) for name, p in module.named_parameters() if p.grad is not None}


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def restore_gradients(module: LightningModule, gradients: dict[str, Any]) -> None:
    """Put back what `waiting_gradients` gave."""
    for name, parameter in module.named_parameters():
        saved = gradients.get(name)
        if saved is None:
            continue
        local = saved.to(parameter.device).clone()
        if isinstance(parameter, DTensor):
            parameter.grad = DTensor.from_local(
                local, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
            )
        else:
            parameter.grad = local
