"""GRPO for any causal language model in Lightning: the first-party GRPO family of Thunderstone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thunderstone_grpo.advantages import Centred as Centred
    from thunderstone_grpo.advantages import FixedScale as FixedScale
    from thunderstone_grpo.advantages import ForwardCorrection as ForwardCorrection
    from thunderstone_grpo.advantages import GroupZScore as GroupZScore
    from thunderstone_grpo.advantages import LeaveOneOut as LeaveOneOut
    from thunderstone_grpo.advantages import centred as centred
    from thunderstone_grpo.advantages import forward_weights as forward_weights
    from thunderstone_grpo.advantages import group_z_score as group_z_score
    from thunderstone_grpo.advantages import leave_one_out as leave_one_out
    from thunderstone_grpo.aggregation import aggregate as aggregate
    from thunderstone_grpo.completions import ScoredCompletions as ScoredCompletions
    from thunderstone_grpo.grpo import GRPO as GRPO
    from thunderstone_grpo.log_probabilities import token_log_probabilities as token_log_probabilities
    from thunderstone_grpo.loss import PolicyLoss as PolicyLoss
    from thunderstone_grpo.loss import clipped_surrogate as clipped_surrogate
    from thunderstone_grpo.loss import kl_estimate as kl_estimate
    from thunderstone_grpo.random_calculation import CharacterTokenizer as CharacterTokenizer
    from thunderstone_grpo.random_calculation import GradedAnswer as GradedAnswer
    from thunderstone_grpo.random_calculation import RandomCalculation as RandomCalculation
    from thunderstone_grpo.repeated_sampling import PassAtK as PassAtK
    from thunderstone_grpo.repeated_sampling import pass_at_k as pass_at_k
    from thunderstone_grpo.rewards import ArithmeticVerifier as ArithmeticVerifier
    from thunderstone_grpo.rewards import PythonVerifier as PythonVerifier
    from thunderstone_grpo.rewards import RewardRunner as RewardRunner
    from thunderstone_grpo.rollouts.engines import RolloutRequest as RolloutRequest
    from thunderstone_grpo.samplers import XRPO as XRPO
    from thunderstone_grpo.samplers import Uniform as Uniform
    from thunderstone_grpo.shapers import BackwardCorrection as BackwardCorrection
    from thunderstone_grpo.shapers import Novelty as Novelty
    from thunderstone_grpo.shapers import ProcessGate as ProcessGate
    from thunderstone_grpo.shapers import Unlikeliness as Unlikeliness
    from thunderstone_grpo.shapers import backward_correction as backward_correction
    from thunderstone_grpo.shapers import novelty as novelty
    from thunderstone_grpo.shapers import process_gate as process_gate
    from thunderstone_grpo.shapers import unlikeliness as unlikeliness
    from thunderstone_grpo.strategies import shaped_advantages as shaped_advantages
    from thunderstone_grpo.uplift import RankUplift as RankUplift
    from thunderstone_grpo.uplift import uplift_by_rank as uplift_by_rank

# Loaded on first use: discovery imports this package and must stay light.
_HOMES = {
    "GRPO": "grpo",
    "ArithmeticVerifier": "rewards",
    "BackwardCorrection": "shapers",
    "Centred": "advantages",
    "CharacterTokenizer": "random_calculation",
    "FixedScale": "advantages",
    "ForwardCorrection": "advantages",
    "GradedAnswer": "random_calculation",
    "GroupZScore": "advantages",
    "LeaveOneOut": "advantages",
    "Novelty": "shapers",
    "PassAtK": "repeated_sampling",
    "PolicyLoss": "loss",
    "ProcessGate": "shapers",
    "PythonVerifier": "rewards",
    "RandomCalculation": "random_calculation",
    "RankUplift": "uplift",
    "RewardRunner": "rewards",
    "RolloutRequest": "rollouts.engines",
    "ScoredCompletions": "completions",
    "Uniform": "samplers",
    "Unlikeliness": "shapers",
    "XRPO": "samplers",
    "aggregate": "aggregation",
    "backward_correction": "shapers",
    "centred": "advantages",
    "clipped_surrogate": "loss",
    "forward_weights": "advantages",
    "group_z_score": "advantages",
    "kl_estimate": "loss",
    "leave_one_out": "advantages",
    "novelty": "shapers",
    "pass_at_k": "repeated_sampling",
    "process_gate": "shapers",
    "shaped_advantages": "strategies",
    "token_log_probabilities": "log_probabilities",
    "unlikeliness": "shapers",
    "uplift_by_rank": "uplift",
}

__all__ = [
    "GRPO",
    "XRPO",
    "ArithmeticVerifier",
    "BackwardCorrection",
    "Centred",
    "CharacterTokenizer",
    "FixedScale",
    "ForwardCorrection",
    "GradedAnswer",
    "GroupZScore",
    "LeaveOneOut",
    "Novelty",
    "PassAtK",
    "PolicyLoss",
    "ProcessGate",
    "PythonVerifier",
    "RandomCalculation",
    "RankUplift",
    "RewardRunner",
    "RolloutRequest",
    "ScoredCompletions",
    "Uniform",
    "Unlikeliness",
    "aggregate",
    "backward_correction",
    "centred",
    "clipped_surrogate",
    "forward_weights",
    "group_z_score",
    "kl_estimate",
    "leave_one_out",
    "novelty",
    "pass_at_k",
    "process_gate",
    "shaped_advantages",
    "token_log_probabilities",
    "unlikeliness",
    "uplift_by_rank",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
