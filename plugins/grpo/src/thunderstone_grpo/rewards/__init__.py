"""Rewards: calling the functions that give them, which are not trusted, and two verifiers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thunderstone_grpo.rewards.arithmetic import ArithmeticVerifier as ArithmeticVerifier
    from thunderstone_grpo.rewards.arithmetic import ExpressionError as ExpressionError
    from thunderstone_grpo.rewards.arithmetic import evaluate as evaluate
    from thunderstone_grpo.rewards.python_verifier import PythonVerifier as PythonVerifier
    from thunderstone_grpo.rewards.runner import RewardRunner as RewardRunner
    from thunderstone_grpo.rewards.scores import Failure as Failure
    from thunderstone_grpo.rewards.scores import Scores as Scores

# Loaded on first use: the processes of reward functions import this package too, and start quickly without torch.
_HOMES = {
    "ArithmeticVerifier": "arithmetic",
    "ExpressionError": "arithmetic",
    "Failure": "scores",
    "PythonVerifier": "python_verifier",
    "RewardRunner": "runner",
    "Scores": "scores",
    "evaluate": "arithmetic",
}

__all__ = [
    "ArithmeticVerifier",
    "ExpressionError",
    "Failure",
    "PythonVerifier",
    "RewardRunner",
    "Scores",
    "evaluate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
