"""Random generators other than the global ones of the process: those objects hold, and those of devices."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from thunderstone.resume.portable import decode, encode

Generator: TypeAlias = "torch.Generator | np.random.Generator | np.random.RandomState | random.Random"

_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_DEPTH = 5
# A longer list is data rather than a pipeline of transforms.
_LONGEST_FOLLOWED = 64
_OPAQUE = (str, bytes, int, float, complex, bool, type(None), type, Tensor, np.ndarray)


def held_generators(roots: Mapping[str, Any]) -> dict[str, Generator]:
    """The generators reachable through the attributes and short containers of some objects, by path.

    Args:
        roots: The objects to look into, by the name their paths begin with.
    """
    found: dict[str, Generator] = {}
    seen: set[int] = set()

    def visit(path: str, value: Any, depth: int) -> None:
        if isinstance(value, _OPAQUE) or id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, _KINDS):
            found[path] = value
        elif depth > 0:
            for key, inner in _contents(value):
                visit(f"{path}.{key}", inner, depth - 1)

    for name, root in roots.items():
        visit(name, root, _DEPTH)
    return found


def _contents(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from list(value.items()) if len(value) <= _LONGEST_FOLLOWED else ()
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value) if len(value) <= _LONGEST_FOLLOWED else ()
    elif hasattr(value, "__dict__") and not isinstance(value, type(random)):
        yield from list(vars(value).items())


def generator_state(generator: Generator) -> Any:
    """A generator's state as tensors and primitives."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return encode(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return encode(generator.get_state(legacy=False))
    version, words, gaussian = generator.getstate()
    return {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gaussian": gaussian}


def set_generator_state(generator: Generator, state: Any) -> None:
    """Put a generator into a state that `generator_state` gave."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = decode(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(decode(state))
    else:
        generator.setstate((state["version"], tuple(state["words"].tolist()), state["gaussian"]))


def device_states() -> dict[str, list[Tensor]]:
    """The random state of every accelerator in use, by device type; asking starts no device."""
    states: dict[str, list[Tensor]] = {}
    for kind in ("cuda", "xpu"):
        module = getattr(torch, kind)
        if module.is_available() and module.is_initialized():
            states[kind] = [module.get_rng_state(index) for index in range(module.device_count())]
    if torch.backends.mps.is_available():
        states["mps"] = [torch.mps.get_rng_state()]
    return states


def set_device_states(states: Mapping[str, list[Tensor]]) -> None:
    """Restore what `device_states` gave, on the devices that exist here."""
    for kind in ("cuda", "xpu"):
        module = getattr(torch, kind)
        if kind in states and module.is_available():
            for index, state in enumerate(states[kind][: module.device_count()]):
                module.set_rng_state(state.cpu(), index)
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"][0].cpu())
