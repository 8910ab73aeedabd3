"""Putting a method through the checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from thunderstone.errors import UnknownNameError
from thunderstone.testing.bench import Bench
from thunderstone.testing.checks import CHECKS
from thunderstone.testing.outcome import Check, CheckFailure, CheckRecord, CheckSkipped, Status
from thunderstone.testing.subject import Factory, Subject, as_subject
from thunderstone.testing.training import apart


def check_method(
    factory: Factory | Subject,
    expected_failures: Mapping[str, str] | None = None,
    *,
    neutral: Factory | None = None,
    checks: Iterable[str] | None = None,
    progress: Callable[[CheckRecord], None] | None = None,
) -> list[CheckRecord]:
    """Put a method through the conformance checks.

    Args:
        factory: Makes the method in its default, effective setting; called without arguments, often. Or a `Subject`,
            which can declare more.
        expected_failures: Checks the method cannot pass, by name, each with the reason. Strict: such a check failing
            is recorded as an expected failure, and one that passes all the same is recorded as failed.
        neutral: Makes the method in the setting that switches it off.
        checks: Names of the checks to run; None for all. See `thunderstone.testing.CHECKS`.
        progress: Called with each record as it is made.

    Returns:
        One record a check, in the order of the rules.

    Raises:
        UnknownNameError: There is no check of a given name.
        ArgumentError: The factory makes no method.

    Example:
        >>> from thunderstone.testing import check_method
        >>> records = check_method(lambda: MyMethod(strength=1.0), neutral=lambda: MyMethod(strength=0.0))
        ... # doctest: +SKIP
        >>> [record.reason for record in records if record.status == "failed"]  # doctest: +SKIP
    """
    subject = as_subject(factory, expected_failures, neutral)
    names = set(CHECKS) if checks is None else set(checks)
    for name in (*sorted(names), *subject.expected_failures):
        if name not in CHECKS:
            raise UnknownNameError("check", name, CHECKS)
    records = []
    for check in CHECKS.values():
        if check.name in names:
            records.append(_record(subject, check))
            if progress is not None:
                progress(records[-1])
    return records


def run_check(subject: Subject, check: Check) -> None:
    """Run one check. Runs that other checks of the same subject have made are looked at again, not repeated.

    Raises:
        CheckFailure: The method breaks the rule.
        CheckSkipped: The check does not apply.
    """
    # Kept with the subject: runs several checks look at live as long as it does.
    bench: Bench = vars(subject).setdefault("_bench", Bench(subject))
    with apart():
        try:
            check.function(bench)
        except (CheckFailure, CheckSkipped):
            raise
        except (Exception, SystemExit) as error:
            # A method that ends the process would take the results of all others with it.
            raise CheckFailure(f"{type(error).__name__}: {error}") from error


def _record(subject: Subject, check: Check) -> CheckRecord:
    expected = subject.expected_failures.get(check.name)
    status: Status = "passed"
    reason = ""
    began = time.perf_counter()
    try:
        run_check(subject, check)
    except CheckSkipped as skipped:
        status, reason = "skipped", str(skipped)
    except CheckFailure as failure:
        status, reason = ("failed", str(failure)) if expected is None else ("expected-failure", expected)
    else:
        if expected is not None:
            status, reason = "failed", f"passes, but was expected to fail ({expected}): remove the expectation"
    return CheckRecord(subject.name, check.name, check.rule, status, reason, time.perf_counter() - began)
