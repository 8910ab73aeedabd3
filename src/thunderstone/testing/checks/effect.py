"""Rules 1 to 3: off means off, on means on, and it matches a reference."""

from __future__ import annotations

from thunderstone.testing.bench import Bench, own_entries
from thunderstone.testing.comparison import flatten, require_same, same
from thunderstone.testing.outcome import CheckFailure, CheckSkipped, check


@check(rule=1)
def check_off_means_off(bench: Bench) -> None:
    """The neutral setting trains to the same bits as no method, on every module of the zoo."""
    for case in bench.cases():
        plain = bench.plain(case)
        run = bench.train(case, [bench.neutral(case)])
        require_same(case.name, "the neutral setting against no method", plain.state, run.state)
        require_same(case.name, "what the module logs in the neutral setting", plain.entries, own_entries(bench, run))


@check(rule=2)
def check_on_means_on(bench: Bench) -> None:
    """The default setting trains to other, finite weights; a monitor's to the same."""
    for case in bench.cases():
        plain, run = bench.plain(case), bench.default(case)
        for name, value in flatten(run.state["weights"]).items():
            if value.is_floating_point() and not value.isfinite().all():
                raise CheckFailure(f"[{case.name}] {name} is not finite after training with {bench.label}")
        if not bench.subject.changes_weights:
            require_same(
                case.name, "a method declared not to change weights", plain.state["weights"], run.state["weights"]
            )
        elif same(plain.state["weights"], run.state["weights"]):
            raise CheckFailure(
                f"[{case.name}] the default setting {bench.method(case)!r} trains to the same weights as no method. "
                "HINT: declare Subject(changes_weights=False) if it only watches"
            )


@check(rule=3)
def check_matches_reference(bench: Bench) -> None:
    """The method agrees with an independent implementation, where the subject brings one."""
    if bench.subject.reference is None:
        raise CheckSkipped("the subject brings no reference; the method's own tests compare it with one")
    try:
        bench.subject.reference(bench.method())
    except AssertionError as error:
        raise CheckFailure(f"{bench.label} differs from its reference: {error}") from error
