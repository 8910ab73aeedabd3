"""Pruning for any LightningModule: a first-party family of Thunderstone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thunderstone_pruning.bip import BiP as BiP
    from thunderstone_pruning.blocks import residual_blocks as residual_blocks
    from thunderstone_pruning.channels import plan_channels as plan_channels
    from thunderstone_pruning.densities import densities_of as densities_of
    from thunderstone_pruning.densities import layer_counts as layer_counts
    from thunderstone_pruning.fixed_mask import FixedMask as FixedMask
    from thunderstone_pruning.fixed_structure import FixedStructure as FixedStructure
    from thunderstone_pruning.gradual_pruning import GradualPruning as GradualPruning
    from thunderstone_pruning.granet import GraNet as GraNet
    from thunderstone_pruning.imp import IMP as IMP
    from thunderstone_pruning.layer_tickets import LayerTickets as LayerTickets
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
    from thunderstone_pruning.structure import Structure as Structure
    from thunderstone_pruning.structure import load_structure as load_structure
    from thunderstone_pruning.structured_pruning import StructuredPruning as StructuredPruning
    from thunderstone_pruning.ticket_trainings import StabilityReport as StabilityReport
    from thunderstone_pruning.ticket_trainings import ticket_stability as ticket_stability

# Loaded on first use: discovery imports this package and must stay light.
_HOMES = {
    "IMP": "imp",
    "SNIP": "snip",
    "BiP": "bip",
    "Candidates": "scores",
    "FixedMask": "fixed_mask",
    "FixedStructure": "fixed_structure",
    "GraNet": "granet",
    "GradualPruning": "gradual_pruning",
    "Interpolation": "stability",
    "LayerTickets": "layer_tickets",
    "RandomPruning": "random_pruning",
    "RandomSearch": "random_search",
    "SparsityReport": "sparsity",
    "StabilityReport": "ticket_trainings",
    "Structure": "structure",
    "StructuredPruning": "structured_pruning",
    "Ticket": "mask_files",
    "densities_of": "densities",
    "distance_and_angle": "stability",
    "global_masks": "masks",
    "interpolate": "stability",
    "layer_counts": "densities",
    "layer_masks": "masks",
    "load_structure": "structure",
    "load_ticket": "mask_files",
    "plan_channels": "channels",
    "prunable_parameters": "prunable",
    "residual_blocks": "blocks",
    "sparsity_report": "sparsity",
    "ticket_stability": "ticket_trainings",
}

__all__ = [
    "IMP",
    "SNIP",
    "BiP",
    "Candidates",
    "FixedMask",
    "FixedStructure",
    "GraNet",
    "GradualPruning",
    "Interpolation",
    "LayerTickets",
    "RandomPruning",
    "RandomSearch",
    "SparsityReport",
    "StabilityReport",
    "Structure",
    "StructuredPruning",
    "Ticket",
    "densities_of",
    "distance_and_angle",
    "global_masks",
    "interpolate",
    "layer_counts",
    "layer_masks",
    "load_structure",
    "load_ticket",
    "plan_channels",
    "prunable_parameters",
    "residual_blocks",
    "sparsity_report",
    "ticket_stability",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
