"""What the attachment needs to know about Lightning's strategies."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
)
from lightning.pytorch.strategies.single_xla import SingleDeviceXLAStrategy
from lightning.pytorch.strategies.xla import XLAStrategy
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from torch.nn.parallel import DistributedDataParallel

from thunderstone.errors import UnsupportedSettingError


@dataclass(frozen=True)
class Parallelism:
    """How the gradients of a run are spread.

    Attributes:
        replicas: Data-parallel replicas that hold whole gradients and average them (1 where they are sharded).
        aliased: Gradients are views into reduction buckets.
        shard_group: Process group over which plain tensors are shards (FSDP1); None elsewhere.
        no_local_gradients: Why a replica cannot see its own gradients before they are averaged; empty where it can.
    """

    replicas: int = 1
    aliased: bool = False
    shard_group: dist.ProcessGroup | None = None
    no_local_gradients: str = ""


def check_strategy(trainer: Trainer, method: str) -> None:
    """Refuse strategies under which gradients cannot be had or a batch cannot be gone through again."""
    strategy = trainer.strategy
    name = type(strategy).__name__
    # Subclasses of strategies that are fine, which are not: DeepSpeed owns backward and step, XLA's step is lazy.
    elsewhere = isinstance(strategy, (DeepSpeedStrategy, XLAStrategy, SingleDeviceXLAStrategy))
    if elsewhere or not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy, FSDPStrategy, ModelParallelStrategy)):
        raise UnsupportedSettingError(
            method,
            f"strategy={name}",
            "it takes the gradients or the optimizer step out of Lightning's hands, so there is no moment at which "
            "the gradients of a whole batch can be read and replaced",
            "use one device, strategy='ddp', FSDPStrategy or ModelParallelStrategy",
        )


def check_whole_parameters(trainer: Trainer, method: str) -> None:
    """Refuse strategies under which a rank holds pieces of parameters, or none that can be written to."""
    if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy)):
        raise UnsupportedSettingError(
            method,
            f"strategy={type(trainer.strategy).__name__}",
            "masks are laid over whole parameters, rounds begin from them, and under sharding no rank holds one",
            "use one device or strategy='ddp'",
        )
    check_strategy(trainer, method)


def hands_out_buffers(trainer: Trainer) -> bool:
    """Whether rank 0's buffers go to all replicas at the beginning of the next forward pass.

    DistributedDataParallel does so after a pass that reduced gradients, and not after one that did not.
    """
    model = trainer.strategy.model
    return isinstance(model, DistributedDataParallel) and bool(model.require_forward_param_sync)


def hand_out_buffers(trainer: Trainer, on: bool) -> None:
    """Decide it, for a pass that must begin as another one did."""
    model = trainer.strategy.model
    if isinstance(model, DistributedDataParallel):
        model.require_forward_param_sync = on


def parallelism(trainer: Trainer) -> Parallelism:
    """How the running Trainer's gradients are spread; call after the strategy's setup."""
    strategy, model = trainer.strategy, trainer.strategy.model
    if isinstance(strategy, DDPStrategy) and isinstance(model, DistributedDataParallel):
        return Parallelism(
            replicas=trainer.world_size,
            aliased=bool(model.gradient_as_bucket_view),
            no_local_gradients="static_graph=True reduces in every pass" if model.static_graph else "",
        )
    no_local = "under sharding no rank ever holds a whole one" if trainer.world_size > 1 else ""
    if isinstance(model, FullyShardedDataParallel):
        whole = model.sharding_strategy == ShardingStrategy.NO_SHARD
        return Parallelism(shard_group=None if whole else model.process_group, no_local_gradients=no_local)
    if isinstance(strategy, ModelParallelStrategy):
        return Parallelism(no_local_gradients=no_local)
    return Parallelism()
