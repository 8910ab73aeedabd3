"""Gradient noise, LAMP scores and records as JSON lines: an example of a package for Thunderstone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thunderstone_flint.gradient_noise import GradientNoise as GradientNoise
    from thunderstone_flint.json_lines import JsonLines as JsonLines

# On first use: Thunderstone imports this package whenever it lists methods, which must not wait for torch.
_HOMES = {"GradientNoise": "gradient_noise", "JsonLines": "json_lines"}

__all__ = ["GradientNoise", "JsonLines"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"thunderstone_flint.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
