"""Hyperfitting, and measures of the diversity of generated text: a first-party family of Thunderstone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thunderstone_hyperfitting.citation_blocker import CitationBlocker as CitationBlocker
    from thunderstone_hyperfitting.hyperfit import Hyperfit as Hyperfit

# Loaded on first use: discovery imports this package and must stay light.
_HOMES = {
    "CitationBlocker": "citation_blocker",
    "Hyperfit": "hyperfit",
}

__all__ = ["CitationBlocker", "Hyperfit"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
