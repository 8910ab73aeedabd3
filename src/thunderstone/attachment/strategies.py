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
    XLAStrategy,
)
from lightning.pytorch.strategies.single_xla import SingleDeviceXLAStrategy
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
        local_gradients: A replica can see its own gradients before they are averaged.
    """

    replicas: int = 1
    aliased: bool = False
    shard_group: dist.ProcessGroup | None = None
    local_gradients: bool = True


def check_strategy(trainer: Trainer, method: str) -> None:
    """Refuse strategies under which gradients cannot be had or a batch cannot be gone through again."""
    strategy = trainer.strategy
    name = type(strategy).__name__
    # Subclasses of strategies that are fine, which are not: DeepSpeed's engine owns backward and step, XLA's step is lazy.
    elsewhere = isinstance(strategy, (DeepSpeedStrategy, XLAStrategy, SingleDeviceXLAStrategy))
    if elsewhere or not isinstance(
        strategy, (SingleDeviceStrategy, DDPStrategy, FSDPStrategy, ModelParallelStrategy)
    ):
        raise UnsupportedSettingError(
            method,
            f"strategy={name}",
            "it takes the gradients or the optimizer step out of Lightning's hands, so there is no moment at which "
            "the gradients of a whole batch can be read and replaced",
            "use one device, strategy='ddp', FSDPStrategy or ModelParallelStrategy",
        )


def parallelism(trainer: Trainer) -> Parallelism:
    """How the running Trainer's gradients are spread; call after the strategy's setup."""
    strategy, model = trainer.strategy, trainer.strategy.model
    if isinstance(strategy, DDPStrategy) and isinstance(model, DistributedDataParallel):
        return Parallelism(replicas=trainer.world_size, aliased=bool(model.gradient_as_bucket_view))
    if isinstance(model, FullyShardedDataParallel):
        whole = model.sharding_strategy == ShardingStrategy.NO_SHARD
        return Parallelism(shard_group=None if whole else model.process_group, local_gradients=trainer.world_size == 1)
    if isinstance(strategy, ModelParallelStrategy):
        return Parallelism(local_gradients=trainer.world_size == 1)
    return Parallelism()
