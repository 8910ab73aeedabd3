"""Rule 6: it counts once, however many passes it makes."""

from __future__ import annotations

from collections import Counter

from thunderstone.testing.bench import Bench, expected_entries, own_entries
from thunderstone.testing.comparison import require_same
from thunderstone.testing.outcome import CheckFailure, CheckSkipped, check
from thunderstone.testing.settings import SETTINGS

# What brackets all rounds of a fit; everything else is called in each.
_ONCE_A_FIT = frozenset({"setup", "teardown"})
_ACCUMULATED = SETTINGS["accumulate_grad_batches=3"]


def _require_counts(where: str, plain: Counter[str], run: Counter[str]) -> None:
    wrong = [
        f"{name} {run[name]} times instead of {plain[name]}"
        for name in sorted({*plain, *run})
        if run[name] != plain[name]
    ]
    if wrong:
        raise CheckFailure(f"[{where}] counted with the method: {'; '.join(wrong)}")


def _expected(bench: Bench, name: str, count: int) -> int:
    return count if name in _ONCE_A_FIT else count * bench.subject.rounds


def _is_update(name: str) -> bool:
    return name.startswith("updates of ")


@check(rule=6)
def check_counts_hooks_once(bench: Bench) -> None:
    """Every hook of the module and of other callbacks, and optimizer.step, runs as often as without the method.

    Each round of a method that trains more than once counts as a training.
    """
    for case in bench.cases():
        for setting in (SETTINGS["plain"], _ACCUMULATED):
            plain, run = bench.plain(case, setting).counts, bench.default(case, setting).counts
            _require_counts(
                f"{case.name}, {setting.name}",
                Counter({name: _expected(bench, name, count) for name, count in plain.items() if not _is_update(name)}),
                Counter({name: count for name, count in run.items() if not _is_update(name)}),
            )


@check(rule=6)
def check_counts_metrics_once(bench: Bench) -> None:
    """torchmetrics objects see every batch once."""
    if bench.subject.zoo is not None and "metrics" not in bench.subject.zoo:
        raise CheckSkipped("the subject's zoo has no module with metrics")
    case = bench.case("metrics")
    for setting in (SETTINGS["plain"], _ACCUMULATED):
        plain, run = bench.plain(case, setting), bench.default(case, setting)
        _require_counts(
            f"{case.name}, {setting.name}",
            Counter({name: count for name, count in plain.counts.items() if _is_update(name)}),
            Counter({name: count for name, count in run.counts.items() if _is_update(name)}),
        )


@check(rule=6)
def check_counts_logs_once(bench: Bench) -> None:
    """The module's own log entries are the same: as many, at the same steps, and the first with the same values."""
    for case in bench.cases():
        plain, run = bench.plain(case), bench.default(case)
        own = own_entries(bench, run)
        entries = expected_entries(bench, plain)
        expected = [(step, sorted(metrics)) for step, metrics in entries]
        actual = [(step, sorted(metrics)) for step, metrics in own]
        require_same(case.name, "what the module logs, and when,", expected, actual)
        if bench.subject.plain_first_step:
            require_same(
                case.name,
                "what the module logs of the first batch",
                plain.observer.first_metrics,
                {
                    key: value
                    for key, value in run.observer.first_metrics.items()
                    if not key.startswith(f"{bench.namespace}/")
                },
            )
        for key in ("samples", "batches", "rows"):
            totals = [[metrics[key] for _, metrics in rows if key in metrics] for rows in (entries, own)]
            require_same(case.name, f"the sum {key!r} over an epoch", totals[0], totals[1])


@check(rule=6)
def check_counts_statistics_once(bench: Bench) -> None:
    """Running statistics see every batch once: equal bits after the first batch, equal counters after the last."""
    for case in bench.cases():
        plain, run = bench.plain(case), bench.default(case)
        if bench.subject.plain_first_step:
            first, actual = plain.observer.first_buffers, run.observer.first_buffers
            require_same(case.name, "running statistics after the first batch", first, actual)
        counters = [
            {name: value for name, value in r.state["weights"].items() if name.endswith("num_batches_tracked")}
            for r in (plain, run)
        ]
        require_same(case.name, "the number of batches statistics were taken of", counters[0], counters[1])
        seen = [getattr(r.module, "seen", None) for r in (plain, run)]
        require_same(case.name, "the number of rows the module itself counts", seen[0], seen[1])


@check(rule=6)
def check_counts_progress_once(bench: Bench) -> None:
    """Steps, epochs and batches of the Trainer end where they end without the method."""
    for case in bench.cases():
        for setting in (SETTINGS["plain"], _ACCUMULATED):
            plain, run = bench.plain(case, setting), bench.default(case, setting)
            require_same(f"{case.name}, {setting.name}", "progress", plain.state["progress"], run.state["progress"])
