"""Rule 9: it reports, under its own name, on rank zero, at the right step."""

from __future__ import annotations

from thunderstone.testing.bench import Bench, expected_entries, is_direct, steps_of_a_round
from thunderstone.testing.outcome import CheckFailure, CheckSkipped, check
from thunderstone.testing.processes import run_ranks
from thunderstone.testing.settings import SETTINGS


@check(rule=9)
def check_reports_under_its_name(bench: Bench) -> None:
    """What the logger gets beyond the module's own metrics is named method/metric."""
    case = bench.case("metrics")
    own = {key for _, metrics in bench.plain(case).entries for key in metrics}
    added = {key for _, metrics in bench.default(case).entries for key in metrics} - own
    foreign = sorted(key for key in added if not key.startswith(f"{bench.namespace}/"))
    if foreign:
        raise CheckFailure(
            f"[{case.name}] logs {', '.join(map(repr, foreign))}, not named {bench.namespace}/… HINT: report with "
            "self.record(name, value)"
        )
    if bench.subject.reports and not added:
        raise CheckFailure(
            f"[{case.name}] reports nothing in a run of two epochs. HINT: report with self.record(name, value), or "
            "declare Subject(reports=False)"
        )


@check(rule=9)
def check_reports_at_the_right_step(bench: Bench) -> None:
    """Its metrics are written at steps at which Lightning writes the module's own, or at which a round begins."""
    case, setting = bench.case("metrics"), SETTINGS["log_every_n_steps=2"]
    plain = bench.plain(case, setting)
    steps = {step for step, metrics in expected_entries(bench, plain) if not is_direct(metrics)}
    if bench.subject.rounds > 1:
        steps |= {number * steps_of_a_round(plain) for number in range(bench.subject.rounds)}
    prefix = f"{bench.namespace}/"
    for step, metrics in bench.default(case, setting).entries:
        reported = sorted(key for key in metrics if key.startswith(prefix))
        if reported and step not in steps and not is_direct(metrics):
            raise CheckFailure(
                f"[{case.name}, {setting.name}] {', '.join(reported)} is written at step {step}; Lightning writes at "
                f"{', '.join(map(str, sorted(s for s in steps if s is not None)))}. HINT: report with self.record, "
                "which takes the step self.log would take"
            )


@check(rule=9)
def check_reports_on_rank_zero(bench: Bench) -> None:
    """Of two processes only the first writes the method's metrics."""
    case = bench.case("mlp")
    results = run_ranks(bench, case, world_size=2)
    written = [sorted(key for key in result["logged"] if key.startswith(f"{bench.namespace}/")) for result in results]
    if written[1]:
        raise CheckFailure(f"[{case.name}, 2 processes] rank 1 writes {', '.join(written[1])}")
    if bench.subject.reports and not written[0]:
        raise CheckFailure(f"[{case.name}, 2 processes] rank 0 writes nothing under {bench.namespace}/")
    if not bench.subject.reports:
        raise CheckSkipped("the subject declares that it reports nothing")
