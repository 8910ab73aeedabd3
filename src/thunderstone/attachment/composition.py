"""Which methods may share a Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from thunderstone.attachment.declared import check_declared
from thunderstone.attachment.method import Method
from thunderstone.errors import CompositionError


def check_composition(methods: Sequence[Method]) -> None:
    """Refuse two methods that want what only one of them can have.

    Raises:
        CompositionError: Two methods own one resource, or have one place in a checkpoint; names both.
        HookError: What a method declares cannot be what its author meant; see `check_declared`.
    """
    for method in methods:
        check_declared(method)
    for first, second in combinations(methods, 2):
        same_class = type(first) is type(second)
        names = (repr(first), repr(second)) if same_class else (type(first).__name__, type(second).__name__)
        if first.state_key == second.state_key:
            apart = first.identified_by
            hint = f"give them different {' or '.join(apart)}" if apart else "leave one of them out"
            raise CompositionError("place in a checkpoint", *names, hint=hint)
        for resource in sorted(first.exclusive & second.exclusive):
            raise CompositionError(resource, *names, hint="leave one of them out, or train one after the other")
