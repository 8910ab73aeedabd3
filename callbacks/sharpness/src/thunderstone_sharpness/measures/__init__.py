"""Measures of sharpness and curvature: pure functions that leave the module they measure as it was.

Diagnostics: none of them predicts generalisation on its own (Andriushchenko et al. 2023, arXiv 2302.07011).
"""

from __future__ import annotations

from thunderstone_sharpness.measures.adaptive import adaptive_sharpness, average_sharpness
from thunderstone_sharpness.measures.apgd import apgd
from thunderstone_sharpness.measures.directions import filter_normalised
from thunderstone_sharpness.measures.eigenvalues import EigenResult, hessian_eigenvalues
from thunderstone_sharpness.measures.errors import MeasureError
from thunderstone_sharpness.measures.estimate import Estimate
from thunderstone_sharpness.measures.hessian import hessian_trace
from thunderstone_sharpness.measures.landscape import Landscape, loss_landscape
from thunderstone_sharpness.measures.logits import normalised_logits
from thunderstone_sharpness.measures.metrics import AdaptiveSharpness, AverageSharpness, HessianTrace
from thunderstone_sharpness.measures.opposing import OpposingGroups, opposing_groups

__all__ = [
    "AdaptiveSharpness",
    "AverageSharpness",
    "EigenResult",
    "Estimate",
    "HessianTrace",
    "Landscape",
    "MeasureError",
    "OpposingGroups",
    "adaptive_sharpness",
    "apgd",
    "average_sharpness",
    "filter_normalised",
    "hessian_eigenvalues",
    "hessian_trace",
    "loss_landscape",
    "normalised_logits",
    "opposing_groups",
]
