"""The policy that the KL term holds on to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thunderstone import UnsupportedSettingError

REFERENCES = ("adapter", "auto", "copy")


class FrozenCopy:
    """The weights that the policy had when training began, and the policy with these weights.

    Not a second module: values by name, put in the place of the policy's own while it is asked. Tied weights are one
    value.

    Args:
        module: The policy.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.values = {name: value.detach().clone() for name, value in _values(module).items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the policy has these weights; gradients are off."""
        held = _values(self._module)
        kept = {name: value.data for name, value in held.items()}
        try:
            for name, value in held.items():
                # The storage is exchanged and nothing is copied: the policy's own come back as they were.
                value.data = self.values[name]
            with torch.no_grad():
                yield
        finally:
            for name, value in held.items():
                value.data = kept[name]

    def state_dict(self) -> dict[str, Tensor]:
        """The values by name."""
        return dict(self.values)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up the values of another run."""
        for name, value in self.values.items():
            value.copy_(state[name])


class AdapterOff:
    """The model below the adapters of peft, which is the policy with them switched off.

    Args:
        who: Who asks, for messages.
        module: The policy.

    Raises:
        UnsupportedSettingError: There are none.
    """

    def __init__(self, who: str, module: nn.Module) -> None:
        self._layers: list[Any] = [child for child in module.modules() if _is_adapter_layer(child)]
        if not self._layers:
            raise UnsupportedSettingError(
                who,
                "reference='adapter'",
                f"{type(module).__name__} has no layers with peft adapters that could be switched off",
                "use reference='copy', which keeps a frozen copy of the weights",
            )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the adapters are off and so are gradients."""
        were = [bool(layer.disable_adapters) for layer in self._layers]
        # Not peft's own switch, which also decides what requires a gradient.
        try:
            for layer in self._layers:
                layer._disable_adapters = True
            with torch.no_grad():
                yield
        finally:
            for layer, was in zip(self._layers, were, strict=True):
                layer._disable_adapters = was

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing: it is in the module."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing."""


def find_reference(who: str, wanted: str, policy: nn.Module) -> FrozenCopy | AdapterOff:
    """The reference of a policy, whose weights are at this moment those of the beginning; see `GRPO`."""
    if wanted == "auto":
        wanted = "adapter" if any(_is_adapter_layer(child) for child in policy.modules()) else "copy"
    return AdapterOff(who, policy) if wanted == "adapter" else FrozenCopy(policy)


def _is_adapter_layer(module: nn.Module) -> bool:
    # Besides the layers, peft wraps modules that it trains as a whole.
    return hasattr(module, "_disable_adapters") and (
        hasattr(module, "base_layer") or hasattr(module, "original_module")
    )


def _values(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and the floating-point buffers by name, each once."""
    named = dict(module.named_parameters())
    return named | {name: value for name, value in module.named_buffers() if value.is_floating_point()}
