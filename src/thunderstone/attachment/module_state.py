"""What a forward pass may change in a module besides its gradients, taken down and put back."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thunderstone.attachment.untrained_parameters import UntrainedParameters

# A list or dict beyond this size is data a module carries, not a statistic it keeps; copying it every step would cost
# more than the step. Of a long list the length is remembered, so that what a second pass appends is still taken off.
_LARGEST_COPIED = 4096
_DEPTH = 3

# Attributes every nn.Module has, and those through which Lightning drives a module: none of them is a statistic.
_MACHINERY = frozenset(vars(nn.Module())) - {"training", "_buffers"} | {
    "_trainer",
    "_fabric",
    "_current_fx_name",
    "_metric_attributes",
    "_compiler_ctx",
    "_jit_is_scripting",
    "_log_hyperparams",
    "_hparams",
    "_hparams_initial",
    "log",
    "log_dict",
    "print",
    "forward",
    "training_step",
    "validation_step",
    "test_step",
    "predict_step",
}
# Where classes come from whose objects hold no statistics: frameworks, and what other threads may be using.
_NOT_STATISTICS = frozenset(
    [
        "torch",
        "lightning",
        "pytorch_lightning",
        "numpy",
        "builtins",
        "transformers",
        "thunderstone",
        "wandb",
        "tensorboard",
        "tensorboardX",
        "threading",
        "_thread",
        "queue",
        "_queue",
        "multiprocessing",
        "concurrent",
        "asyncio",
        "logging",
        "io",
        "_io",
    ]
)
_PRIMITIVES = (bool, int, float, complex, str, bytes, type(None))

Undo = Callable[[], None]


class ModuleState:
    """Buffers, mode, statistics kept in plain attributes, metric states, counters and generators of a module.

    Running statistics are found by looking at everything a module holds, not by knowing classes: a normalisation
    layer of one's own, a torchmetrics object and a ``self.outputs.append(...)`` are covered alike. Plain Python objects
    in attributes (a meter class) are followed one level deep; modules kept in lists, out of sight of `modules()`, are
    captured too. Parameters are not part of it, except the `untrained` ones where they are given.
    """

    def __init__(self, module: nn.Module, untrained: UntrainedParameters | None = None) -> None:
        self.untrained = untrained
        self._undo: list[Undo] = []
        # Most of what there is, in lists and put back in one go rather than by an `Undo` each: this runs every step.
        self._modes: list[tuple[dict[str, Any], bool]] = []
        self._buffers: list[tuple[dict[str, Tensor | None], dict[str, Tensor | None]]] = []
        self._tensors: list[Tensor] = []
        self._values: list[Tensor] = []
        self._portable: dict[str, Any] = {}
        if untrained is not None:
            self._portable.update(untrained.named())
        # Those in sight first, so that each goes by its own name however else it can be reached.
        children = list(module.named_modules())
        self._captured = {id(child) for _, child in children}
        seen: set[int] = set()
        for path, child in children:
            self._capture_module(path, child, seen)

    def restore(self) -> None:
        """Put everything back in place. May be called any number of times."""
        with torch.no_grad():
            if self.untrained is not None:
                self.untrained.restore()
            for attributes, training in self._modes:
                if attributes["training"] is not training:
                    attributes["training"] = training
            for buffers, saved in self._buffers:
                _put_back(buffers, saved)
            if self._tensors:
                torch._foreach_copy_(self._tensors, self._values)
            # Last: among these are the values that a checkpoint has for some of the above.
            for undo in self._undo:
                undo()

    def portable(self) -> dict[str, Any]:
        """The tensors and primitives of this state by qualified name, for a checkpoint."""
        return self._portable

    @classmethod
    def from_portable(cls, module: nn.Module, values: dict[str, Any]) -> ModuleState:
        """The state of `module` as it is now, with the portable values replaced by `values`."""
        state = cls(module)
        modules = dict(module.named_modules())
        for name, value in values.items():
            path, _, key = name.rpartition(".")
            if path in modules:
                state._undo.append(_setter(modules[path], key, value))
        state._portable = dict(values)
        return state

    def _capture_module(self, path: str, module: nn.Module, seen: set[int]) -> None:
        attributes = vars(module)
        buffers = attributes["_buffers"]
        if not buffers and _is_torch_layer(type(module)):
            self._modes.append((attributes, attributes["training"]))
            return
        prefix = f"{path}." if path else "."
        if buffers:
            self._buffers.append((buffers, dict(buffers)))
            for key, buffer in buffers.items():
                if buffer is not None and id(buffer) not in seen:
                    seen.add(id(buffer))
                    self._capture_tensor(f"{prefix}{key}", buffer, _DEPTH)
        if _is_torch_layer(type(module)):
            self._modes.append((attributes, attributes["training"]))
            return
        kept = {key: value for key, value in attributes.items() if key not in _MACHINERY and key != "_buffers"}
        self._undo.append(_attributes_undo(attributes, kept))
        for key, value in kept.items():
            if isinstance(value, _PRIMITIVES):
                self._portable[f"{prefix}{key}"] = value
            else:
                self._capture_value(f"{prefix}{key}", value, seen, _DEPTH)

    def _capture_hidden(self, name: str, module: nn.Module, seen: set[int]) -> None:
        hidden = [(path, child) for path, child in module.named_modules() if id(child) not in self._captured]
        self._captured.update(id(child) for _, child in hidden)
        for path, child in hidden:
            self._capture_module(f"{name}.{path}", child, seen)

    def _capture_value(self, name: str, value: Any, seen: set[int], depth: int) -> None:
        if isinstance(value, (*_PRIMITIVES, nn.Parameter)) or id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            self._capture_hidden(name, value, seen)
            return
        if isinstance(value, Tensor):
            self._capture_tensor(name, value, depth)
            return
        undo = _undo_of(value)
        if undo is not None:
            self._undo.append(undo)
        if depth > 0:
            for key, inner in _contents(value):
                self._capture_value(f"{name}[{key!r}]", inner, seen, depth - 1)

    def _capture_tensor(self, name: str, tensor: Tensor, depth: int) -> None:
        if not _can_be_written(tensor):
            return
        saved = tensor.clone()
        self._tensors.append(tensor)
        self._values.append(saved)
        if depth == _DEPTH:
            self._portable[name] = saved


def _is_torch_layer(kind: type[nn.Module]) -> bool:
    """torch's own layers keep their statistics in buffers; what else they hold is configuration."""
    return kind.__module__.startswith("torch.nn.modules.")


def _can_be_written(tensor: Tensor) -> bool:
    """Whether the tensor is plain storage: not a result with a graph, not expanded, not an inference tensor."""
    if tensor.requires_grad or tensor.is_inference() or tensor.layout is not torch.strided:
        return False
    return tensor.is_contiguous() or all(
        stride != 0 or size <= 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )


def _undo_of(value: Any) -> Undo | None:
    """How to put a mutable non-tensor value back, or None when it holds nothing that can change."""
    if isinstance(value, list):
        if len(value) > _LARGEST_COPIED:
            length = len(value)
            return lambda: value.__delitem__(slice(length, None))
        items = list(value)
        return lambda: value.__setitem__(slice(None), items)
    if isinstance(value, dict):
        return partial(_put_back, value, dict(value)) if len(value) <= _LARGEST_COPIED else None
    if isinstance(value, (set, deque)):
        return _refill_undo(value) if len(value) <= _LARGEST_COPIED else None
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: _set_generator(value, state)
    if isinstance(value, np.random.Generator):
        numpy_state = value.bit_generator.state
        return lambda: setattr(value.bit_generator, "state", numpy_state)
    if isinstance(value, random.Random):
        python_state = value.getstate()
        return lambda: value.setstate(python_state)
    if isinstance(value, np.ndarray):
        return _array_undo(value)
    if _is_plain_object(value):
        return _attributes_undo(vars(value), dict(vars(value)))
    return None


def _contents(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict) and len(value) <= _LARGEST_COPIED:
        yield from list(value.items())
    elif isinstance(value, (list, tuple, deque)) and len(value) <= _LARGEST_COPIED:
        yield from enumerate(list(value))
    elif _is_plain_object(value):
        for key, inner in list(vars(value).items()):
            if isinstance(inner, (Tensor, list, dict, set, deque)):
                yield key, inner


def _is_plain_object(value: Any) -> bool:
    """An object of a user's own class, such as a meter; not a callable, a class, or part of a framework."""
    if isinstance(value, type) or callable(value) or not hasattr(value, "__dict__"):
        return False
    root = type(value).__module__.partition(".")[0]
    return root not in _NOT_STATISTICS


_NOTHING = object()


def _put_back(mapping: dict[Any, Any], saved: dict[Any, Any]) -> None:
    # Untouched mappings stay untouched: torch.compile guards on some of them.
    if len(mapping) != len(saved) or any(mapping.get(key, _NOTHING) is not value for key, value in saved.items()):
        mapping.clear()
        mapping.update(saved)


def _attributes_undo(attributes: dict[str, Any], kept: dict[str, Any]) -> Undo:
    def undo() -> None:
        for key in [key for key in attributes if key not in kept and key not in _MACHINERY and key != "_buffers"]:
            del attributes[key]
        for key, value in kept.items():
            if attributes.get(key, undo) is not value:
                attributes[key] = value

    return undo


def _refill_undo(value: set[Any] | deque[Any]) -> Undo:
    items = list(value)

    def undo() -> None:
        value.clear()
        value.update(items) if isinstance(value, set) else value.extend(items)

    return undo


def _array_undo(array: np.ndarray[Any, Any]) -> Undo | None:
    if not array.flags.writeable or array.size > _LARGEST_COPIED:
        return None
    saved = array.copy()
    return lambda: np.copyto(array, saved)


def _setter(module: nn.Module, key: str, value: Any) -> Undo:
    def undo() -> None:
        current = module._buffers.get(key, module._parameters.get(key, vars(module).get(key)))
        if isinstance(value, Tensor) and isinstance(current, Tensor) and current.shape == value.shape:
            current.copy_(value)
        elif not isinstance(value, Tensor):
            vars(module)[key] = value

    return undo


def _set_generator(generator: torch.Generator, state: Tensor) -> None:
    generator.set_state(state)
