"""Reward functions as the command line and YAML name them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from thunderstone import ArgumentError
from thunderstone.arguments import finite

_HINT = "pass a function, 'package.module:function', or a list of them"


def resolved_rewards(who: str, reward: Any, weights: Any, timeout: Any) -> list[Callable[..., Any]]:
    """The functions themselves, or ArgumentError: there is none, one is no function, or weights do not fit."""
    several = list(reward) if isinstance(reward, Sequence) and not isinstance(reward, (str, bytes)) else [reward]
    if not several:
        raise ArgumentError(who, "reward", reward, "there is no reward function", _HINT)
    functions = [_resolved(who, one) for one in several]
    if weights is not None:
        hint = "pass a list with a number for each reward function"
        if isinstance(weights, (str, bytes)) or not isinstance(weights, Sequence):
            raise ArgumentError(who, "reward_weights", weights, "it is no list", hint)
        for weight in weights:
            finite(who, "reward_weights", weight, hint)
        if len(weights) != len(functions):
            reason = f"there are {len(functions)} reward functions"
            raise ArgumentError(who, "reward_weights", weights, reason, hint)
    if timeout is not None:
        finite(who, "reward_timeout", timeout, "pass seconds, or None to wait", above=0)
    return functions


def _resolved(who: str, reward: Any) -> Callable[..., Any]:
    if isinstance(reward, str):
        module, colon, name = reward.partition(":")
        if not (module and colon and name):
            raise ArgumentError(who, "reward", reward, "it is not of the form 'package.module:function'", _HINT)
        try:
            found: Any = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError) as error:
            raise ArgumentError(who, "reward", reward, f"it cannot be imported: {error}", _HINT) from error
        reward = found
    if not callable(reward):
        raise ArgumentError(who, "reward", reward, f"it is of type {type(reward).__name__}", _HINT)
    function: Callable[..., Any] = reward
    return function
