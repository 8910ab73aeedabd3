"""The step object on parameters that are spread over two ranks, without Lightning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from tiny_training import perceptron, samples
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor

from thunderstone import GradientStep
from thunderstone_sharpness.ascent import Ascent

RHO, ETA = 0.3, 0.01
DIRECTIONS = ("l2", "adaptive_l2", "linf")


def batches() -> list[tuple[Tensor, Tensor]]:
    """One batch for each rank."""
    x, y = samples(16).tensors
    return [(x[:8], y[:8]), (x[8:], y[8:])]


def network() -> nn.Module:
    """With a layer whose few rows leave a rank with next to nothing."""
    return nn.Sequential(*perceptron(), nn.Linear(3, 1), nn.Linear(1, 3))


def sharded(mesh_shape: tuple[int, ...]) -> nn.Module:
    """Sharded layer by layer over all ranks; two mesh dimensions replicate over the first."""
    module = network()
    names = ("replicate", "shard")[2 - len(mesh_shape) :]
    mesh = init_device_mesh("cpu", mesh_shape, mesh_dim_names=names)
    for layer in module:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def full(tensor: Tensor | None) -> Tensor | None:
    """The whole of a tensor, on every rank."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor().detach().clone()
    return None if tensor is None else tensor.detach().clone()


def look(module: nn.Module, direction: str, gather: Callable[[Tensor | None], Any] = full, **arguments: Any) -> Any:
    """Gradients here, their norm, weights at the perturbed point, gradients there, whether weights came back."""
    x, y = batches()[dist.get_rank()]

    def backward(*_: Any) -> None:
        nn.functional.cross_entropy(module(x), y).backward()

    backward()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    step = GradientStep(optimizer, module, recompute=backward, **arguments)
    before = [gather(parameter) for parameter in step.parameters]
    first = step.gradients
    norm = step.norm()
    delta = Ascent("test", RHO, ETA, direction).delta(step, first)
    empty = step.norm([])
    with step.perturbed(delta):
        there = [gather(parameter) for parameter in step.parameters]
        second = step.recompute()
    after = [gather(parameter) for parameter in step.parameters]
    return {
        "names": step.names,
        "norm": norm,
        "empty": empty,
        "first": [gather(gradient) for gradient in first],
        "there": there,
        "second": [gather(gradient) for gradient in second],
        "same gradients": all(one is other for one, other in zip(first, step.gradients, strict=True)),
        "back": all(torch.equal(one, other) for one, other in zip(before, after, strict=True)),
    }


def fsdp_one() -> Any:
    """FSDP1: plain tensors that are slices of one flat parameter; a slice may be empty."""
    results = {}
    for name in DIRECTIONS:
        wrapped = FullyShardedDataParallel(network(), use_orig_params=True, device_id=torch.device("cpu"))
        results[name] = look(wrapped, name, _gathered_slices, shard_group=wrapped.process_group)
    return results


def _gathered_slices(tensor: Tensor | None) -> Tensor:
    parts: list[Any] = [None, None]
    dist.all_gather_object(parts, torch.empty(0) if tensor is None else tensor.detach().clone())
    return torch.cat([part.flatten() for part in parts])


SHARDED: dict[str, Callable[[], Any]] = {
    "fully sharded": lambda: {name: look(sharded((2,)), name) for name in DIRECTIONS},
    "replicated shards": lambda: {name: look(sharded((2, 1)), name) for name in DIRECTIONS},
    "FSDP1": fsdp_one,
}
