"""What two data-parallel processes do, all of it in one launch: run with the folder for results as only argument.

Each scenario is a function that returns what the tests look at; it runs on both ranks, and its result is written to
``<folder>/rank<rank>.pt``. A scenario that raises ends the process, so that its partner does not wait for ever.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from masked_processes import scenarios as masked_scenarios
from sharded_modules import SHARDED
from stateful_modules import CentredByHand
from tiny_training import (
    CLASSES,
    Again,
    Classifier,
    assert_same_bits,
    assert_second_pass_is_the_first,
    half_precision,
    perceptron,
    samples,
    sgd,
    state,
    trainer,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thunderstone import GradientStep, UnsupportedSettingError, UpdatePlan, hookimpl
from thunderstone_sharpness import ASAM, SAM

RHO, BATCHES, SIZE = 0.3, 5, 4


def shard(rank: int, dtype: torch.dtype = torch.float64) -> DataLoader[Any]:
    """The batches of one rank; batch by batch, both ranks' samples together are one batch of twice the size."""
    x, y = samples(2 * BATCHES * SIZE, dtype=dtype).tensors
    rows = torch.arange(len(x)).view(BATCHES, 2, SIZE)[:, rank].flatten()
    return DataLoader(TensorDataset(x[rows], y[rows]), batch_size=SIZE)


def _fit(module: Classifier, *methods: Any, precision: str = "64-true", ddp: Any = None, **settings: Any) -> Any:
    torch.manual_seed(7 + dist.get_rank() if dist.is_initialized() else 7)
    strategy = settings.pop("strategy", None) or DDPStrategy(process_group_backend="gloo", **(ddp or {}))
    if "plugins" not in settings:
        settings["precision"] = precision
    run = trainer(*methods, strategy=strategy, use_distributed_sampler=False, **{**settings, "devices": 2})
    run.fit(module, shard(run.global_rank, torch.float64 if precision == "64-true" else torch.float32))
    return run


def _trained(*methods: Any, net: nn.Module | None = None, **settings: Any) -> dict[str, Tensor]:
    module = Classifier(net, sgd)
    _fit(module, *methods, **settings)
    return state(module)


class Unused(Classifier):
    """Parameters that only one rank uses, and such that none uses."""

    def __init__(self) -> None:
        super().__init__()
        self.only_rank_one = nn.Linear(CLASSES, CLASSES)
        self.nobody = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        return self.only_rank_one(logits) if self.global_rank == 1 else logits


class Logging(Classifier):
    """Reduces what it logs over the ranks, with statistics and dropout of its own on each."""

    def __init__(self) -> None:
        super().__init__(perceptron(nn.BatchNorm1d(8), nn.Dropout(0.4)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        return loss


class LeavesLocalGradients(Again):
    """Asks for each replica's own gradients and does nothing with them: the attachment averages."""

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        plan.request_recompute(local_gradients=True)

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        assert not step.synchronised
        assert step.replicas == 2
        self._first.append([g.clone() for g in step.gradients if g is not None])


class LooksTwiceLocally(Again):
    """Each replica goes through its own batch twice; the gradients are averaged afterwards."""

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        plan.request_recompute(local_gradients=True)

    def look(self, step: GradientStep) -> list[Tensor | None]:
        return step.recompute(sync=False)


class OverflowsOnOneRank(Classifier):
    """The second batch of rank 0 overflows in half precision."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        return loss * 1e30 if batch_idx == 1 and self.global_rank == 0 else loss


def _looking_twice() -> dict[str, Any]:
    plain, watched, method = Logging(), Logging(), Again()
    first = _fit(plain, accumulate_grad_batches=2)
    second = _fit(watched, method, accumulate_grad_batches=2)
    assert_same_bits(plain, watched)
    assert_second_pass_is_the_first(method, 1e-15)
    return {
        "logged": [dict(run.callback_metrics) for run in (first, second)],
        "updates": len(method._first),
        "state": state(watched),
    }


def _looking_twice_locally() -> dict[str, Any]:
    """With a normalisation whose output depends on its statistics, which rank 0 hands out before every pass."""
    nets = [
        perceptron(CentredByHand(), nn.BatchNorm1d(8), CentredByHand(), nn.Tanh(), CentredByHand()) for _ in range(2)
    ]
    method = LooksTwiceLocally()
    plain = _trained(net=nets[0].double(), accumulate_grad_batches=2)
    watched = _trained(method, net=nets[1].double(), accumulate_grad_batches=2)
    assert_second_pass_is_the_first(method, 1e-15)
    return {"plain": plain, "watched": watched}


def _local_gradients() -> dict[str, Any]:
    method = LeavesLocalGradients()
    left = _trained(method)
    return {"left": left, "plain": _trained(), "first": method._first[0]}


def _half_precision() -> dict[str, Any]:
    settings = half_precision(2.0**10)
    module = OverflowsOnOneRank()
    _fit(module, SAM(rho=RHO), precision="16", limit_train_batches=3, **settings)
    return {"state": state(module), "scale": settings["plugins"][0].scaler.get_scale()}


def _unused() -> dict[str, Any]:
    results = {}
    for name, methods in (
        ("plain", ()),
        ("again", (Again(),)),
        ("sync", (SAM(rho=RHO, sync=True),)),
        ("local", (SAM(),)),
    ):
        module = Unused()
        _fit(module, *methods, ddp={"find_unused_parameters": True})
        results[name] = state(module)
    return results


class ShardedClassifier(Classifier):
    """Sharded by `fully_shard` in the place Lightning has for it."""

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        mesh = self.device_mesh["data_parallel"]
        for layer in (*self.net, self.net):
            if any(True for _ in layer.parameters()):
                fully_shard(layer, mesh=mesh)


def _model_parallel() -> dict[str, Any]:
    results: dict[str, Any] = {}
    sam = SAM(rho=RHO, sync=True)
    runs: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "plain": ((), {}),
        "again": ((Again(),), {}),
        "sam": ((sam,), {}),
        "sam accumulated": ((sam,), {"accumulate_grad_batches": 2}),
    }
    for name, (methods, settings) in runs.items():
        module = ShardedClassifier(None, sgd)
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
        _fit(module, *methods, strategy=strategy, precision="32-true", **settings)
        results[name] = {key: value.full_tensor().detach() for key, value in module.named_parameters()}
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
    module = ShardedClassifier(None, sgd)
    results["refused"] = _refusal(SAM(rho=RHO), module=module, strategy=strategy, precision="32-true")
    return results


def _refusal(*methods: Any, module: Classifier | None = None, **settings: Any) -> str:
    """What a run that cannot work says."""
    try:
        _fit(module or Classifier(None, sgd), *methods, **settings)
    except UnsupportedSettingError as error:
        return str(error)
    raise AssertionError("nothing was refused")


SCENARIOS: dict[str, Callable[[], Any]] = {
    "sync": lambda: _trained(SAM(rho=RHO, sync=True)),
    "sync asam": lambda: _trained(ASAM(rho=RHO, sync=True)),
    "local": lambda: _trained(SAM(rho=RHO)),
    "local asam": lambda: _trained(ASAM(rho=RHO)),
    "sync accumulated": lambda: _trained(SAM(rho=RHO, sync=True), accumulate_grad_batches=2),
    "local accumulated": lambda: _trained(SAM(rho=RHO), accumulate_grad_batches=2),
    "sync bucket view": lambda: _trained(SAM(rho=RHO, sync=True), ddp={"gradient_as_bucket_view": True}),
    "local bucket view": lambda: _trained(
        SAM(rho=RHO), ddp={"gradient_as_bucket_view": True}, accumulate_grad_batches=2
    ),
    "sync static graph": lambda: _trained(SAM(rho=RHO, sync=True), ddp={"static_graph": True}),
    "local static graph": lambda: _refusal(SAM(rho=RHO), ddp={"static_graph": True}),
    "clipped": lambda: _trained(SAM(rho=RHO, sync=True), gradient_clip_val=0.05),
    "local, single precision": lambda: _trained(SAM(rho=RHO), precision="32-true"),
    "plain": lambda: _trained(),
    "looking twice": _looking_twice,
    "looking twice locally": _looking_twice_locally,
    "local gradients": _local_gradients,
    "half precision": _half_precision,
    "unused": _unused,
    "model parallel": _model_parallel,
    **SHARDED,
    **masked_scenarios(_fit),
}


def main(folder: Path) -> None:
    """Run every scenario on this rank."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results = {name: scenario() for name, scenario in SCENARIOS.items()}
    torch.save(results, folder / f"rank{os.environ['LOCAL_RANK']}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
