"""Rule 8: it composes with every other method, or is refused naming the other."""

from __future__ import annotations

import tempfile
from functools import cache

import thunderstone
from thunderstone.attachment.method import Method
from thunderstone.errors import CompositionError, ThunderstoneError
from thunderstone.testing.bench import Bench
from thunderstone.testing.outcome import CheckFailure, CheckSkipped, check
from thunderstone.testing.training import make_trainer, seed
from thunderstone.testing.zoo import Case


@check(rule=8)
def check_composes(bench: Bench) -> None:
    """With every other installed method, in either order, it trains or is refused before the first batch.

    A method that does not train the module by itself (with its default arguments it may ask for more than a small
    module has) says nothing about the two together.
    """
    own = type(bench.method())
    case = bench.case("mlp")
    others = []
    unusable = []
    for name in thunderstone.methods():
        try:
            other = thunderstone.create(name)
        except ThunderstoneError as error:
            unusable.append(f"{name} ({error})")
            continue
        if type(other) is own:
            continue
        reason = _alone(case, name)
        if reason:
            unusable.append(f"{name} ({reason})")
        else:
            others.append(name)
    if not others:
        raise CheckSkipped(f"no other method is installed{'; not usable: ' + ', '.join(unusable) if unusable else ''}")
    for name in others:
        outcomes = [
            _together(case, [bench.method(case), thunderstone.create(name)]),
            _together(case, [thunderstone.create(name), bench.method(case)]),
        ]
        if outcomes[0] != outcomes[1]:
            raise CheckFailure(
                f"{bench.label} and {name!r}: with {bench.label} first {outcomes[0]}, with it second {outcomes[1]}"
            )


@cache
def _alone(case: Case, name: str) -> str:
    """Why an installed method does not train the module; empty when it does."""
    try:
        _together(case, [thunderstone.create(name)])
    except CheckFailure as failure:
        return str(failure)
    return ""


def _together(case: Case, methods: list[Method]) -> str:
    """``"it trains"`` or ``"it is refused"``; CheckFailure for anything else."""
    labels = [type(method).__name__ for method in methods]
    where = " with ".join(labels)
    seed()
    module = case.module()
    with tempfile.TemporaryDirectory(prefix="thunderstone-") as folder:
        trainer = make_trainer(folder, methods, logger=False, enable_checkpointing=False, max_epochs=1)
        try:
            trainer.fit(module, case.loader())
        except CompositionError as error:
            if trainer.global_step:
                raise CheckFailure(f"{where} is refused only after {trainer.global_step} updates: {error}") from error
            missing = [label for label in labels if label not in str(error)]
            if missing:
                raise CheckFailure(f"{where} is refused without naming {' and '.join(missing)}: {error}") from error
            return "it is refused"
        except Exception as error:
            raise CheckFailure(f"{where} fails: {type(error).__name__}: {error}") from error
    for name, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            raise CheckFailure(f"{where} trains {name} to values that are not finite")
    return "it trains"
