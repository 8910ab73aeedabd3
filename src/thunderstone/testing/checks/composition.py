"""Rule 8: it composes with every other method, or is refused naming the other."""

from __future__ import annotations

from functools import cache

import thunderstone
from thunderstone.discovery import class_of
from thunderstone.errors import ThunderstoneError
from thunderstone.specs import MethodSpec
from thunderstone.testing.bench import Bench
from thunderstone.testing.declared import subject_of
from thunderstone.testing.outcome import CheckFailure, CheckSkipped, check
from thunderstone.testing.pairs import Together, together
from thunderstone.testing.subject import Subject


@check(rule=8)
def check_composes(bench: Bench) -> None:
    """With every other installed method, in either order, it trains or is refused before the first batch.

    The other is in the setting it declares for the kit. A method that does not train the module by itself says nothing
    about the two together.
    """
    own = type(bench.method())
    tried = 0
    unusable = []
    for spec in thunderstone.methods().values():
        try:
            if class_of(spec) is own:
                continue
            other = _declared(spec)
        except ThunderstoneError as error:
            unusable.append(f"{spec.name} ({error})")
            continue
        outcome = _outcome(*sorted((bench.subject, other), key=lambda subject: subject.name))
        if outcome.result == "broken":
            raise CheckFailure(f"[{outcome.case}] {bench.label} with {spec.name!r} fails: {outcome.reason}")
        if outcome.result == "untried":
            unusable.append(f"{spec.name} ({outcome.reason})")
        else:
            tried += 1
    if not tried:
        none = "no other method can be tried: " + ", ".join(unusable) if unusable else "no other method is installed"
        raise CheckSkipped(none)


@cache
def _declared(spec: MethodSpec) -> Subject:
    return subject_of(spec)


# Two subjects that are checked in one process meet once.
@cache
def _outcome(first: Subject, second: Subject) -> Together:
    return together(first, second, brief=True)
