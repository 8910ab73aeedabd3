"""Training methods from research papers, as plug-ins for any PyTorch Lightning module.

Importing this package imports neither torch nor Lightning: what needs them is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thunderstone.discovery import create, methods, strategies, strategy
from thunderstone.errors import (
    ApiVersionError,
    ArgumentError,
    BrokenPluginError,
    CompositionError,
    DiscoveryError,
    HookError,
    NameConflictError,
    ResumeError,
    StepError,
    ThunderstoneError,
    UnknownNameError,
    UnsupportedSettingError,
)
from thunderstone.markers import API_VERSION, ContractWarning, hookimpl
from thunderstone.specs import MethodSpec, Reference, StrategySpec

if TYPE_CHECKING:
    from thunderstone.attachment.data_view import DataView
    from thunderstone.attachment.gradient_step import GradientStep, UpdatePlan, UpdateStep
    from thunderstone.attachment.loss_terms import LossStep
    from thunderstone.attachment.masks import Masks
    from thunderstone.attachment.method import Method
    from thunderstone.attachment.objective import ObjectiveStep
    from thunderstone.attachment.rounds import Round
    from thunderstone.progress.phase import Phase
    from thunderstone.resume import ExactResume
    from thunderstone.tracking.records import Artifact, Histogram, Record, Table

__version__ = "0.1.0"

_LAZY = {
    "Method": "thunderstone.attachment.method",
    "DataView": "thunderstone.attachment.data_view",
    "GradientStep": "thunderstone.attachment.gradient_step",
    "LossStep": "thunderstone.attachment.loss_terms",
    "Masks": "thunderstone.attachment.masks",
    "ObjectiveStep": "thunderstone.attachment.objective",
    "Phase": "thunderstone.progress.phase",
    "Round": "thunderstone.attachment.rounds",
    "UpdatePlan": "thunderstone.attachment.gradient_step",
    "UpdateStep": "thunderstone.attachment.gradient_step",
    "ExactResume": "thunderstone.resume",
    "Artifact": "thunderstone.tracking.records",
    "Histogram": "thunderstone.tracking.records",
    "Record": "thunderstone.tracking.records",
    "Table": "thunderstone.tracking.records",
}

__all__ = [
    "API_VERSION",
    "ApiVersionError",
    "ArgumentError",
    "Artifact",
    "BrokenPluginError",
    "CompositionError",
    "ContractWarning",
    "DataView",
    "DiscoveryError",
    "ExactResume",
    "GradientStep",
    "Histogram",
    "HookError",
    "LossStep",
    "Masks",
    "Method",
    "MethodSpec",
    "NameConflictError",
    "ObjectiveStep",
    "Phase",
    "Record",
    "Reference",
    "ResumeError",
    "Round",
    "StepError",
    "StrategySpec",
    "Table",
    "ThunderstoneError",
    "UnknownNameError",
    "UnsupportedSettingError",
    "UpdatePlan",
    "UpdateStep",
    "create",
    "hookimpl",
    "methods",
    "strategies",
    "strategy",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'thunderstone' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(__all__) | set(globals()))
