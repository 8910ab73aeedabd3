"""Sharpness-aware training for any LightningModule: the first-party sharpness family of Thunderstone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thunderstone_sharpness.asam import ASAM as ASAM
    from thunderstone_sharpness.gradient_norm import GradientNorm as GradientNorm
    from thunderstone_sharpness.ignite import IGNITE as IGNITE
    from thunderstone_sharpness.mesa import MESA as MESA
    from thunderstone_sharpness.opposing_signals import OpposingSignals as OpposingSignals
    from thunderstone_sharpness.saf import SAF as SAF
    from thunderstone_sharpness.sam import SAM as SAM
    from thunderstone_sharpness.sharpness_monitor import SharpnessMonitor as SharpnessMonitor

# Loaded on first use: discovery imports this package and must stay light.
_HOMES = {
    "ASAM": "asam",
    "GradientNorm": "gradient_norm",
    "IGNITE": "ignite",
    "MESA": "mesa",
    "OpposingSignals": "opposing_signals",
    "SAF": "saf",
    "SAM": "sam",
    "SharpnessMonitor": "sharpness_monitor",
}

__all__ = ["ASAM", "IGNITE", "MESA", "SAF", "SAM", "GradientNorm", "OpposingSignals", "SharpnessMonitor"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
