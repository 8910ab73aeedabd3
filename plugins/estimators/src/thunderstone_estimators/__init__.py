"""Estimators with less variance for any LightningModule: the first-party estimators family of Thunderstone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thunderstone_estimators.control_variates import ControlVariateEstimate as ControlVariateEstimate
    from thunderstone_estimators.control_variates import control_variate as control_variate
    from thunderstone_estimators.gradients import SVRG as SVRG
    from thunderstone_estimators.gradients import GradientVariance as GradientVariance
    from thunderstone_estimators.score_function import ARM as ARM
    from thunderstone_estimators.score_function import NVIL as NVIL
    from thunderstone_estimators.score_function import REBAR as REBAR
    from thunderstone_estimators.score_function import RELAX as RELAX
    from thunderstone_estimators.score_function import DisARM as DisARM
    from thunderstone_estimators.score_function import LeaveOneOut as LeaveOneOut
    from thunderstone_estimators.score_function import MuProp as MuProp
    from thunderstone_estimators.score_function import Reinforce as Reinforce
    from thunderstone_estimators.score_function import ScoreFunctionEstimate as ScoreFunctionEstimate
    from thunderstone_estimators.score_function import VarGrad as VarGrad
    from thunderstone_estimators.sliced_wasserstein import CloudPair as CloudPair
    from thunderstone_estimators.sliced_wasserstein import ControlVariate as ControlVariate
    from thunderstone_estimators.sliced_wasserstein import SlicedWassersteinDistance as SlicedWassersteinDistance
    from thunderstone_estimators.sliced_wasserstein import SlicedWassersteinLoss as SlicedWassersteinLoss
    from thunderstone_estimators.sliced_wasserstein import draw_directions as draw_directions
    from thunderstone_estimators.sliced_wasserstein import (
        max_sliced_wasserstein_distance as max_sliced_wasserstein_distance,
    )
    from thunderstone_estimators.sliced_wasserstein import sliced_wasserstein_distance as sliced_wasserstein_distance
    from thunderstone_estimators.sliced_wasserstein_penalty import (
        SlicedWassersteinPenalty as SlicedWassersteinPenalty,
    )

# Loaded on first use: discovery imports this package and must stay light.
_HOMES = {
    "ARM": "score_function",
    "CloudPair": "sliced_wasserstein",
    "ControlVariate": "sliced_wasserstein",
    "ControlVariateEstimate": "control_variates",
    "DisARM": "score_function",
    "GradientVariance": "gradients",
    "LeaveOneOut": "score_function",
    "MuProp": "score_function",
    "NVIL": "score_function",
    "REBAR": "score_function",
    "RELAX": "score_function",
    "Reinforce": "score_function",
    "SVRG": "gradients",
    "ScoreFunctionEstimate": "score_function",
    "SlicedWassersteinDistance": "sliced_wasserstein",
    "SlicedWassersteinLoss": "sliced_wasserstein",
    "SlicedWassersteinPenalty": "sliced_wasserstein_penalty",
    "VarGrad": "score_function",
    "control_variate": "control_variates",
    "draw_directions": "sliced_wasserstein",
    "max_sliced_wasserstein_distance": "sliced_wasserstein",
    "sliced_wasserstein_distance": "sliced_wasserstein",
}

__all__ = [
    "ARM",
    "NVIL",
    "REBAR",
    "RELAX",
    "SVRG",
    "CloudPair",
    "ControlVariate",
    "ControlVariateEstimate",
    "DisARM",
    "GradientVariance",
    "LeaveOneOut",
    "MuProp",
    "Reinforce",
    "ScoreFunctionEstimate",
    "SlicedWassersteinDistance",
    "SlicedWassersteinLoss",
    "SlicedWassersteinPenalty",
    "VarGrad",
    "control_variate",
    "draw_directions",
    "max_sliced_wasserstein_distance",
    "sliced_wasserstein_distance",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
