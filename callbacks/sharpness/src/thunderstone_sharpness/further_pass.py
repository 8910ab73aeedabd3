"""One more forward pass of a module in the middle of a training step, of which nothing remains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from thunderstone.isolation import ModuleState, RandomState, silenced


@contextmanager
def without_trace(trainer: Trainer, module: LightningModule, target: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradient inside; afterwards everything is as it was, also after an exception.

    Put back to the same bits: random states, modes, buffers, metrics, counters and statistics in plain attributes of
    `target`. Logging calls do nothing inside.

    Args:
        trainer: The running Trainer.
        module: The LightningModule.
        target: The module that is called inside.
    """
    random_state = RandomState(trainer.strategy.root_device)
    with _stand_ins(target):
        state = ModuleState(target)
        try:
            target.eval()
            with torch.no_grad(), silenced(trainer, module):
                yield
        finally:
            state.restore()
            random_state.restore()


@contextmanager
def _stand_ins(target: nn.Module) -> Iterator[None]:
    """Copies of all buffers and tensors in attributes.

    The training step's graph may hold the originals for its backward pass, which refuses tensors that were written to
    since, even with what they held before.
    """
    originals = [
        (attributes, name, value)
        for child in target.modules()
        for attributes in (vars(child)["_buffers"], vars(child))
        for name, value in attributes.items()
        if isinstance(value, Tensor)
    ]
    for attributes, name, value in originals:
        attributes[name] = value.detach().clone()
    try:
        yield
    finally:
        for attributes, name, value in originals:
            attributes[name] = value
