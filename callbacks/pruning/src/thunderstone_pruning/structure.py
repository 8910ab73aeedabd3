"""What is left of a module from which channels or blocks were removed, and putting another module into that shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thunderstone import ArgumentError
from thunderstone_pruning.saved_files import of_callbacks, read_saved

_FORMAT = "thunderstone.pruning.structure"
Indices = list[Tensor | None]


class PassThrough(nn.Module):
    """Stands where a block was removed: hands on the first argument, whatever else it is called with."""

    def forward(self, inputs: Any, *_: Any, **__: Any) -> Any:
        """The first argument."""
        return inputs


@dataclass(frozen=True)
class Structure:
    """A smaller architecture, as the difference to the one it was made of.

    Attributes:
        shapes: Name of a parameter or buffer that changes → its shape before.
        kept: The same names → for each dimension the indices that stay (int64, in order), None where all do.
        attributes: Name of a submodule → attributes that change (channels, features) → their new values.
        removed: Submodules that are gone; what they were called with is handed on in their place.
        weights: Parameters and buffers of the smaller module, where they were kept; see `save`.
        metadata: Primitives that describe it.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    kept: Mapping[str, Indices] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    weights: Mapping[str, Tensor] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    # -- using it ------------------------------------------------------------------------------------------------------

    def apply(self, module: nn.Module, optimizers: Iterable[Optimizer] = (), *, who: str = "Structure") -> None:
        """Make `module` physically smaller, in place; nothing happens where it has been done before.

        Parameters stay the objects they are, with a smaller tensor and no gradient; those of removed blocks leave the
        optimizers. Slots of an optimizer that have a weight's shape are cut with it, the state of a weight that has
        others (factored moments, LBFGS's history) begins anew.

        Args:
            module: Of the architecture the structure was made of.
            optimizers: Those that hold its parameters.
            who: Named in errors.

        Raises:
            ArgumentError: The module is of another architecture; it is as before then.
        """
        if self.applied_to(module):
            return
        self._check(module, who)
        optimizers = list(optimizers)
        for name in self.removed:
            _set(module, name, PassThrough())
        places = _tensors(module)
        done: set[int] = set()
        for name, indices in self.kept.items():
            owner, attribute, tensor = places[name]
            if id(tensor) in done:
                continue
            done.add(id(tensor))
            if isinstance(tensor, nn.Parameter):
                _cut_slots(optimizers, tensor, indices)
                tensor.grad = None
                tensor.data = cut(tensor.data, indices)
            else:
                setattr(owner, attribute, cut(tensor, indices))
        for name, values in self.attributes.items():
            for attribute, value in values.items():
                setattr(module.get_submodule(name), attribute, tuple(value) if isinstance(value, list) else value)
        if self.removed:
            _forget(optimizers, {id(parameter) for parameter in module.parameters()})
        for optimizer in optimizers:
            if isinstance(optimizer, torch.optim.LBFGS):
                # Its history is of all weights as one vector, whose length it remembers.
                optimizer.state.clear()
                optimizer._numel_cache = None
                optimizer._params = optimizer.param_groups[0]["params"]

    def applied_to(self, module: nn.Module) -> bool:
        """Whether the module has this structure."""
        places = _tensors(module)
        return all(isinstance(_at(module, name), PassThrough) for name in self.removed) and all(
            name in places and places[name][2].shape == self._after(name) for name in self.shapes
        )

    def _after(self, name: str) -> torch.Size:
        pairs = zip(self.shapes[name], self.kept[name], strict=True)
        return torch.Size(size if indices is None else len(indices) for size, indices in pairs)

    def _check(self, module: nn.Module, who: str) -> None:
        places = _tensors(module)
        hint = "pass the module the structure was made of, before anything of it is removed"
        for name, shape in self.shapes.items():
            if name not in places or places[name][2].shape != torch.Size(shape):
                found = "no such tensor" if name not in places else f"one of shape {tuple(places[name][2].shape)}"
                reason = f"the structure is of a module with {name!r} of shape {tuple(shape)}, and this one has {found}"
                raise ArgumentError(who, "structure", name, reason, hint)
        for name in (*self.removed, *self.attributes):
            if _at(module, name) is None:
                reason = f"{type(module).__name__} has no such submodule"
                raise ArgumentError(who, "structure", name, reason, hint)

    # -- files and checkpoints -----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives, without the weights."""
        return {
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "kept": {name: list(indices) for name, indices in self.kept.items()},
            "attributes": {name: dict(values) for name, values in self.attributes.items()},
            "removed": list(self.removed),
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None) -> Structure:
        """The inverse of `state_dict`."""
        shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
        kept = {name: list(indices) for name, indices in state["kept"].items()}
        removed = tuple(state["removed"])
        return cls(shapes, kept, state["attributes"], removed, weights, state["metadata"])

    def save(self, path: str | Path) -> Path:
        """Write it, creating folders; ``torch.load(path, weights_only=True)`` reads it without this package."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = self.weights
        if weights is not None:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        torch.save({"format": _FORMAT, "structure": self.state_dict(), "weights": weights}, path)
        return path


def load_structure(path: str | Path, *, who: str = "load_structure", argument: str = "path") -> Structure:
    """Read a structure from a file of its own, or from a Lightning checkpoint of a run that removed something.

    The module's weights in that file come with it: ``structure.apply(module)`` and then
    ``module.load_state_dict(structure.weights)`` make of a newly built module the one that was saved.

    Args:
        path: The file.
        who: Who asks, for messages.
        argument: What its argument is called, for messages.

    Raises:
        ArgumentError: There is no such file, or no structure is in it.
    """
    hint = "pass a file that StructuredPruning or LayerTickets wrote, or a checkpoint of such a run"
    content = read_saved(who, argument, path, hint)
    if isinstance(content, dict) and content.get("format") == _FORMAT:
        return Structure.from_state_dict(content["structure"], content["weights"])
    found = of_callbacks(content, "structure")
    if len(found) != 1:
        raise ArgumentError(who, argument, str(path), "there is no structure in it", hint)
    return Structure.from_state_dict(found[0], content["state_dict"])


def cut(tensor: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """A new contiguous tensor of the chosen indices in every dimension."""
    for dimension, chosen in enumerate(indices):
        if chosen is not None:
            tensor = tensor.index_select(dimension, chosen.to(tensor.device))
    return tensor.contiguous()


def _cut_slots(optimizers: Iterable[Optimizer], parameter: nn.Parameter, indices: Indices) -> None:
    for optimizer in optimizers:
        state = optimizer.state.get(parameter)
        if not state:
            continue
        slots = {key: value for key, value in state.items() if isinstance(value, Tensor) and value.dim()}
        if any(slot.shape != parameter.shape for slot in slots.values()):
            optimizer.state[parameter] = {}
            continue
        state.update({key: cut(slot, indices) for key, slot in slots.items()})


def _forget(optimizers: Iterable[Optimizer], present: set[int]) -> None:
    """Take what is no longer in the module out of the optimizers."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in present:
                    optimizer.state.pop(parameter, None)
            group["params"] = [parameter for parameter in group["params"] if id(parameter) in present]


def _tensors(module: nn.Module) -> dict[str, tuple[nn.Module, str, Tensor]]:
    """Every parameter and buffer under all of its names, with who holds it."""
    found: dict[str, tuple[nn.Module, str, Tensor]] = {}
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for attribute, tensor in (*owner._parameters.items(), *owner._buffers.items()):
            if tensor is not None:
                found[f"{prefix}.{attribute}" if prefix else attribute] = (owner, attribute, tensor)
    return found


def _at(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def _set(module: nn.Module, name: str, value: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    module.get_submodule(parent)._modules[child] = value
