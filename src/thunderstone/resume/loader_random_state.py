"""The random state a loader's iterator depends on: the process's own and that of the objects the loader holds."""

from __future__ import annotations

from typing import Any

from thunderstone.random_state import RandomState
from thunderstone.resume.generators import generator_state, held_generators, set_generator_state

_HOLDERS = ("generator", "sampler", "batch_sampler", "dataset", "collate_fn")


def holders(loader: Any) -> dict[str, Any]:
    """The parts of a loader that may hold random generators or a position, by attribute."""
    parts = {name: getattr(loader, name, None) for name in _HOLDERS}
    inner = getattr(parts["batch_sampler"], "sampler", None)
    if inner is not None and inner is not parts["sampler"]:
        parts["batch_sampler.sampler"] = inner
    if all(part is None for part in parts.values()):
        parts["loader"] = loader
    return {name: part for name, part in parts.items() if part is not None}


def held_states(loader: Any) -> dict[str, Any]:
    """The states of the generators a loader holds, by path."""
    return {path: generator_state(found) for path, found in held_generators(holders(loader)).items()}


def set_held_states(loader: Any, states: dict[str, Any]) -> None:
    """Restore what `held_states` gave; generators that no longer exist are passed over."""
    for path, found in held_generators(holders(loader)).items():
        if path in states:
            set_generator_state(found, states[path])


def sampler_numbers(loader: Any) -> dict[str, Any]:
    """The plain numbers that samplers of a user's own class keep, by path: most often an epoch they count.

    Of a known sampler that is its seed: Lightning gives a DistributedSampler the seed of the script.
    """
    numbers = {}
    for name, part in holders(loader).items():
        if "sampler" in name:
            known = type(part).__module__.partition(".")[0] in ("torch", "lightning", "pytorch_lightning", "torchdata")
            for key, value in getattr(part, "__dict__", {}).items():
                if type(value) in (bool, int, float) and (key == "seed" or not known):
                    numbers[f"{name}.{key}"] = value
    return numbers


def set_sampler_numbers(loader: Any, numbers: dict[str, Any]) -> None:
    """Restore what `sampler_numbers` gave."""
    parts = holders(loader)
    for path, value in numbers.items():
        name, _, key = path.rpartition(".")
        if name in parts and key in getattr(parts[name], "__dict__", {}):
            setattr(parts[name], key, value)


class LoaderRandomState:
    """A snapshot of the process's random state and of what one loader holds; taking it draws nothing."""

    __slots__ = ("_held", "_numbers", "_random")

    def __init__(self, loader: Any) -> None:
        self._random = RandomState()
        self._held = held_states(loader)
        self._numbers = sampler_numbers(loader)

    def restore(self, loader: Any) -> None:
        """Put the process and the loader's parts into this state."""
        self._random.restore()
        set_held_states(loader, self._held)
        set_sampler_numbers(loader, self._numbers)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives."""
        return {"random": self._random.state_dict(), "held": self._held, "numbers": self._numbers}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> LoaderRandomState:
        """The inverse of `state_dict`."""
        snapshot = cls.__new__(cls)
        snapshot._random = RandomState.from_state_dict(state["random"])
        snapshot._held, snapshot._numbers = state["held"], state["numbers"]
        return snapshot
