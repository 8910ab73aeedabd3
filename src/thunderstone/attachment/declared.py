"""What a method's class declares about itself: refused where a slip would make it mean something else, or nothing."""

from __future__ import annotations

import inspect
from collections.abc import Set
from difflib import get_close_matches
from typing import TYPE_CHECKING

from thunderstone.errors import HookError, suggestion

if TYPE_CHECKING:
    from thunderstone.attachment.method import Method

RESOURCES = ("gradient", "masks", "objective", "rounds")
"""What the host itself asks the owner of. A family may invent names of its own for what its methods cannot share."""

# Lets "tasks" and "bounds" pass, and stops "gradients", "mask", "objektive" and "round".
_SLIP = 0.85


def check_declared(method: Method) -> None:
    """Refuse what a method's class declares where it cannot be what its author meant.

    Raises:
        HookError: `exclusive` is no set of names, or has a name that differs from the host's by a slip;
            `identified_by` is no row of names of arguments.
    """
    _check_exclusive(type(method))
    check_identified_by(method)


def _check_exclusive(cls: type[Method]) -> None:
    # A class may have been written without a type checker.
    declared: object = cls.exclusive
    if not isinstance(declared, Set) or not all(isinstance(name, str) for name in declared):
        raise HookError(
            f"{cls.__name__}: exclusive = {declared!r} is no set of names. HINT: write "
            "exclusive = frozenset({'gradient'})"
        )
    for name in sorted(declared):
        close = get_close_matches(name.strip().lower(), RESOURCES, n=1, cutoff=_SLIP)
        if close and name not in RESOURCES:
            raise HookError(
                f"{cls.__name__}: exclusive = {set(declared)!r} protects nothing: the host knows no {name!r}. HINT: "
                f"Did you mean {close[0]!r}? A resource of your own needs a name that is less like it"
            )


def check_identified_by(method: Method) -> None:
    """The part of `check_declared` that `Method.state_key` rests on."""
    cls = type(method)
    declared: object = cls.identified_by
    if isinstance(declared, str):
        raise HookError(
            f"{cls.__name__}: identified_by = {declared!r} is a text, whose letters would be taken for names. HINT: "
            f"write identified_by = ({declared!r},), with the comma"
        )
    if not isinstance(declared, (tuple, list)) or not all(isinstance(name, str) for name in declared):
        raise HookError(
            f"{cls.__name__}: identified_by = {declared!r} is no tuple of names. HINT: write "
            "identified_by = ('output',)"
        )
    arguments = list(inspect.signature(cls).parameters)
    for name in declared:
        # A subclass may take its parent's arguments without naming them.
        if name not in arguments and name not in vars(method):
            raise HookError(
                f"{cls.__name__}: identified_by = {declared!r} names {name!r}, which __init__ does not take. HINT: "
                + (suggestion(name, arguments) if arguments else "leave it out: there are no arguments")
            )
