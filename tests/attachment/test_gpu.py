"""What only shows on an accelerator: its own random state, half precision, and FSDP through Lightning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from tiny_training import (
    Again,
    Ascend,
    Classifier,
    assert_same_bits,
    assert_second_pass_is_the_first,
    fit,
    perceptron,
    state,
)
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_looking_twice_changes_nothing(precision: str) -> None:
    """Dropout on a device draws from the device's generator."""
    nets = [perceptron(nn.BatchNorm1d(8), nn.Dropout(0.5)) for _ in range(2)]
    plain, watched, method = Classifier(nets[0]), Classifier(nets[1]), Again()
    settings: dict[str, Any] = {"accelerator": "gpu", "precision": precision, "accumulate_grad_batches": 2}
    fit(plain, **settings)
    fit(watched, method, **settings)
    assert_second_pass_is_the_first(method)
    assert_same_bits(plain, watched)


class ShardedClassifier(Classifier):
    """Sharded by `fully_shard` in the place Lightning has for it, and whole again in what it hands out."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[str, Tensor] = {}

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy) and self.device_mesh is not None:
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def on_train_end(self) -> None:
        model = self.trainer.strategy.model
        if isinstance(model, FullyShardedDataParallel):
            with FullyShardedDataParallel.summon_full_params(model):
                self.ends = state(self.net)
        else:
            whole = {
                name: getattr(value, "full_tensor", lambda v=value: v)() for name, value in state(self.net).items()
            }
            self.ends = whole


@pytest.mark.parametrize(
    "strategy",
    [FSDPStrategy, lambda: ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)],
    ids=["FSDPStrategy", "ModelParallelStrategy"],
)
def test_sharding_strategies_follow_the_single_device(strategy: Callable[[], Any]) -> None:
    single, sharded = ShardedClassifier(), ShardedClassifier()
    fit(single, Ascend(), accelerator="gpu")
    fit(sharded, Ascend(), accelerator="gpu", strategy=strategy())
    assert single.ends
    for (_, one), (_, other) in zip(single.ends.items(), sharded.ends.items(), strict=True):
        torch.testing.assert_close(other.cpu(), one.cpu(), rtol=0, atol=1e-4)
