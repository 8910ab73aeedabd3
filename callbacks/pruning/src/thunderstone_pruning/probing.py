"""Finding out what a piece of code removes from a module, whatever way it does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from thunderstone import ArgumentError
from thunderstone_pruning.structure import Indices, Structure

Attributes = dict[str, dict[str, Any]]


class Probe:
    """Every tensor of a module is filled with its own indices; what is left of them tells what was removed.

    Args:
        module: A copy that is good for nothing else afterwards.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.attributes = _sizes(module)
        self.shapes: dict[str, tuple[int, ...]] = {}
        # Weights that are one, by their first name; what removes channels unties them.
        self.tied: dict[str, str] = {}
        first: dict[int, str] = {}
        for name, tensor in _named(module).items():
            if first.setdefault(id(tensor), name) != name:
                self.tied[name] = first[id(tensor)]
            if tensor.dim():
                self.shapes[name] = tuple(tensor.shape)
                # Doubles hold every index below 2**53 exactly.
                tensor.data = torch.arange(tensor.numel(), dtype=torch.float64).view(tensor.shape)

    def structure(self, who: str, metadata: Mapping[str, Any]) -> Structure:
        """What the module has become.

        Raises:
            ArgumentError: What is left of a tensor is no choice of indices in each dimension, or differs between two
                uses of one.
        """
        after = _named(self.module)
        for name, other in self.tied.items():
            if not after[name].equal(after[other]):
                reason = f"it is the same tensor as {other!r}, and would lose other channels there"
                raise ArgumentError(who, "module", name, reason, "exclude the layers before and after it, or untie it")
        kept: dict[str, Indices] = {}
        for name, shape in self.shapes.items():
            found = after[name].detach()
            if tuple(found.shape) != shape:
                kept[name] = _indices(who, name, shape, found.long())
        changed: Attributes = {}
        for name, values in _sizes(self.module).items():
            before = self.attributes.get(name, {})
            different = {key: value for key, value in values.items() if key in before and before[key] != value}
            if different:
                changed[name] = different
        return Structure({name: self.shapes[name] for name in kept}, kept, changed, (), None, dict(metadata))


def _indices(who: str, name: str, shape: tuple[int, ...], flat: Tensor) -> Indices:
    chosen: Indices = []
    if flat.numel() and flat.dim() == len(shape):
        stride = 1
        rebuilt = torch.zeros_like(flat)
        for dimension in reversed(range(len(shape))):
            line = flat[tuple(slice(None) if d == dimension else 0 for d in range(len(shape)))]
            here = line // stride % shape[dimension]
            view = [-1 if d == dimension else 1 for d in range(len(shape))]
            rebuilt = rebuilt + stride * here.view(view)
            chosen.insert(0, None if len(here) == shape[dimension] else here.clone())
            stride *= shape[dimension]
        if rebuilt.equal(flat):
            return chosen
    raise ArgumentError(
        who,
        "module",
        name,
        f"of its shape {shape} something is left that is no choice of channels ({tuple(flat.shape)})",
        "exclude the layers around it",
    )


def _named(module: nn.Module) -> dict[str, Tensor]:
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}


def _sizes(module: nn.Module) -> Attributes:
    """Whole numbers and tuples of them that submodules hold: channels, features, heads."""
    found: Attributes = {}
    for name, submodule in module.named_modules():
        values = {key: _plain(value) for key, value in vars(submodule).items() if _is_size(value)}
        if values:
            found[name] = values
    return found


def _is_size(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return bool(value) and all(type(entry) is int for entry in value)
    return type(value) is int


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value
