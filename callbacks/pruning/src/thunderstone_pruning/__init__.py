"""Pruning for any LightningModule: a first-party family of Thunderstone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thunderstone_pruning.densities import densities_of as densities_of
    from thunderstone_pruning.densities import layer_counts as layer_counts
    from thunderstone_pruning.fixed_mask import FixedMask as FixedMask
    from thunderstone_pruning.gradual_pruning import GradualPruning as GradualPruning
    from thunderstone_pruning.granet import GraNet as GraNet
    from thunderstone_pruning.imp import IMP as IMP
    from thunderstone_pruning.mask_files import Ticket as Ticket
    from thunderstone_pruning.mask_files import load_ticket as load_ticket
    from thunderstone_pruning.masks import global_masks as global_masks
    from thunderstone_pruning.masks import layer_masks as layer_masks
    from thunderstone_pruning.prunable import prunable_parameters as prunable_parameters
    from thunderstone_pruning.random_pruning import RandomPruning as RandomPruning
    from thunderstone_pruning.random_search import RandomSearch as RandomSearch
    from thunderstone_pruning.scores import Candidates as Candidates
    from thunderstone_pruning.snip import SNIP as SNIP
    from thunderstone_pruning.sparsity import SparsityReport as SparsityReport
    from thunderstone_pruning.sparsity import sparsity_report as sparsity_report
    from thunderstone_pruning.stability import Interpolation as Interpolation
    from thunderstone_pruning.stability import distance_and_angle as distance_and_angle
    from thunderstone_pruning.stability import interpolate as interpolate

# Loaded on first use: discovery imports this package and must stay light.
_HOMES = {
    "IMP": "imp",
    "SNIP": "snip",
    "Candidates": "scores",
    "FixedMask": "fixed_mask",
    "GraNet": "granet",
    "GradualPruning": "gradual_pruning",
    "Interpolation": "stability",
    "RandomPruning": "random_pruning",
    "RandomSearch": "random_search",
    "SparsityReport": "sparsity",
    "Ticket": "mask_files",
    "densities_of": "densities",
    "distance_and_angle": "stability",
    "global_masks": "masks",
    "interpolate": "stability",
    "layer_counts": "densities",
    "layer_masks": "masks",
    "load_ticket": "mask_files",
    "prunable_parameters": "prunable",
    "sparsity_report": "sparsity",
}

__all__ = [
    "IMP",
    "SNIP",
    "Candidates",
    "FixedMask",
    "GraNet",
    "GradualPruning",
    "Interpolation",
    "RandomPruning",
    "RandomSearch",
    "SparsityReport",
    "Ticket",
    "densities_of",
    "distance_and_angle",
    "global_masks",
    "interpolate",
    "layer_counts",
    "layer_masks",
    "load_ticket",
    "prunable_parameters",
    "sparsity_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
