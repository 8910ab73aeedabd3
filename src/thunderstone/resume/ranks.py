"""A checkpoint holds the callbacks' state of rank zero: the state of every rank has to be in it."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor

from thunderstone.resume.portable import map_tensors


def gather_on_rank_zero(trainer: Trainer, state: dict[str, Any]) -> list[dict[str, Any]]:
    """The state of every rank, in order, on rank zero; on the others, which write no checkpoint, only their own.

    Every rank has to call this, as every rank has to call `trainer.save_checkpoint`.
    """
    if trainer.world_size == 1 or not (dist.is_available() and dist.is_initialized()):
        return [state]
    # A tensor is unpickled on the device it was on, which for another rank's would be the wrong one.
    state = map_tensors(state, Tensor.cpu)
    if dist.get_rank() != 0:
        dist.gather_object(state, None, dst=0)
        return [state]
    states: list[Any] = [None] * dist.get_world_size()
    dist.gather_object(state, states, dst=0)
    return states
