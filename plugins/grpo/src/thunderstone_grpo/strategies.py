"""Strategies by name, with arguments, and in combination."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import thunderstone
from thunderstone import ArgumentError
from thunderstone_grpo.completions import ScoredCompletions

_FORM = "write a name, e.g. 'unlikeliness', or a name with arguments, e.g. 'unlikeliness(beta=0.5)'"


def build(kind: str, value: Any, who: str, argument: str) -> Callable[..., Any]:
    """A strategy of a kind: found by name and built, or an object as it is.

    Args:
        kind: E.g. ``"grpo.reward_shaper"``.
        value: ``"unlikeliness"``, ``"unlikeliness(beta=0.5)"`` (so the command line and YAML can write it), a class
            that is built without arguments, or something to be called.
        who: Who asks, for messages.
        argument: Which of its arguments.

    Raises:
        ArgumentError: It is nothing of the kind, or its arguments are refused.
        UnknownNameError: No plug-in declares the name.
    """
    given: dict[str, Any] = {}
    found = value
    if isinstance(value, str):
        name, given = _parsed(value, who, argument)
        found = thunderstone.strategy(kind, name)
    if isinstance(found, type):
        try:
            found = found(**given)
        except TypeError as error:
            raise ArgumentError(who, argument, value, str(error), _FORM) from error
    elif given:
        raise ArgumentError(who, argument, value, f"{kind} {name!r} takes no arguments", "leave them out")
    if not callable(found) and kind != "grpo.sampler":
        hint = f"pass a name, an instance, or a function; names: {', '.join(thunderstone.strategies(kind))}"
        raise ArgumentError(who, argument, value, f"a {type(value).__name__} is no {kind}", hint)
    return found  # type: ignore[no-any-return]  # a plug-in's


def _parsed(text: str, who: str, argument: str) -> tuple[str, dict[str, Any]]:
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, {}
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args:
            return tree.func.id, {str(one.arg): ast.literal_eval(one.value) for one in tree.keywords}
    except (SyntaxError, ValueError) as error:
        raise ArgumentError(who, argument, text, f"it cannot be read: {error}", _FORM) from error
    raise ArgumentError(who, argument, text, "it is neither a name nor a name with named arguments", _FORM)


def stage_of(shaper: object) -> str:
    """``"rewards"`` or ``"advantages"``; a function that does not say shapes rewards."""
    return str(getattr(shaper, "stage", "rewards"))


def check_combination(who: str, shapers: Sequence[object], advantage: object, group_size: int) -> None:
    """Refuse what cancels: shapers whose effect the advantage takes away, and groups that compare nothing.

    Args:
        who: Who asks, for messages.
        shapers: In the order in which they are applied.
        advantage: What follows them.
        group_size: Completions of a prompt.

    Raises:
        ArgumentError: The message has the algebra.
    """
    name = _name(advantage)
    least = getattr(advantage, "least_group_size", 1)
    if group_size < least:
        hint = "use 2 or more, or advantage='fixed_scale' and groups_without_signal='keep'"
        reason = f"{name} compares the completions of a group, and with one r - mean = 0: no gradient"
        raise ArgumentError(who, "group_size", group_size, reason, hint)
    for shaper in shapers:
        if stage_of(shaper) not in ("rewards", "advantages"):
            reason = f"its stage is {stage_of(shaper)!r}"
            raise ArgumentError(who, "shapers", _name(shaper), reason, "let it be 'rewards' or 'advantages'")
    before = [shaper for shaper in shapers if stage_of(shaper) == "rewards"]
    for place, shaper in enumerate(before):
        if place and getattr(shaper, "replaces", False):
            reason = f"it replaces the rewards that {_name(before[place - 1])} has shaped"
            raise ArgumentError(who, "shapers", _name(shaper), reason, "put it first")
    if before and getattr(advantage, "binary", False):
        reason = f"{name} is defined for rewards 0 and 1, and {_name(before[0])} changes them"
        raise ArgumentError(who, "advantage", name, reason, "leave the shaper out, or use advantage='fixed_scale'")
    removes = frozenset(getattr(advantage, "removes", frozenset()))
    # What comes before a shaper that is not affine has an effect; only the last ones meet the advantage.
    if not before or not getattr(before[-1], "affine", False) or "shift" not in removes:
        return
    shaper = _name(before[-1])
    hint = "use advantage='fixed_scale', which keeps both a and b, or leave the correction out"
    if "scale" in removes:
        reason = (
            f"{shaper} is r -> a r + b with the same a > 0 and b for all, and {name} of it is "
            "(a r + b - a mean - b) / (a std) = (r - mean) / std: the correction cancels"
        )
    else:
        reason = (
            f"{shaper} is r -> a r + b with the same a and b for all, and {name} of it is a (r - mean): "
            "of the correction only a factor of the learning rate is left"
        )
    raise ArgumentError(who, "advantage", name, reason, hint)


def shaped_advantages(
    completions: ScoredCompletions,
    shapers: Sequence[Callable[[Tensor, ScoredCompletions], Tensor]],
    advantage: Callable[[Tensor, ScoredCompletions], Tensor],
) -> tuple[Tensor, Tensor]:
    """Shaped rewards (N,), NaN where unscorable, and advantages (N,), 0 there.

    Args:
        completions: N of them, with their raw rewards.
        shapers: Applied in order, those of the rewards before those of the advantages.
        advantage: Makes advantages of shaped rewards.

    Raises:
        ArgumentError: A strategy returned another shape, or something that is not finite.
    """
    rewards = completions.rewards
    for shaper in (one for one in shapers if stage_of(one) == "rewards"):
        rewards = _checked(shaper, shaper(rewards, completions), completions)
    # A shaper of somebody else's may have given a number to what has none.
    rewards = torch.where(completions.scorable, rewards, torch.nan)
    values = _checked(advantage, advantage(rewards, completions), completions)
    for shaper in (one for one in shapers if stage_of(one) == "advantages"):
        values = _checked(shaper, shaper(values, completions), completions)
    return rewards, torch.where(completions.scorable & ~rewards.isnan(), values, 0.0)


def _checked(strategy: object, values: Any, completions: ScoredCompletions) -> Tensor:
    name, wanted = _name(strategy), tuple(completions.rewards.shape)
    if not isinstance(values, Tensor) or values.shape != completions.rewards.shape:
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ArgumentError(name, "result", found, f"one value a completion is wanted, {wanted}", "correct it")
    if bool(values[completions.scorable].isinf().any()):
        raise ArgumentError(name, "result", "inf", "every value must be finite", "look for a division by zero in it")
    return values


def _name(strategy: object) -> str:
    return getattr(strategy, "__name__", type(strategy).__name__)
