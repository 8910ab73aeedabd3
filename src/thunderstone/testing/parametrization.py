"""The checks as pytest tests, one a method and check."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from thunderstone.errors import UnknownNameError
from thunderstone.testing.checks import CHECKS
from thunderstone.testing.outcome import Check, CheckFailure, CheckSkipped
from thunderstone.testing.runner import run_check
from thunderstone.testing.subject import Factory, Subject, as_subject


class PytestCheck:
    """A check as a parametrised test calls it: fails, or skips with the reason."""

    def __init__(self, check: Check) -> None:
        self.check = check

    def __call__(self, subject: Subject) -> None:
        import pytest

        __tracebackhide__ = True
        try:
            run_check(subject, self.check)
        except CheckSkipped as skipped:
            pytest.skip(str(skipped))
        except CheckFailure as failure:
            message = f"{subject.name} breaks rule {self.check.rule} ({self.check.name}): {failure}"
            raise CheckFailure(message) from failure.__cause__

    def __repr__(self) -> str:
        return self.check.name


def parametrize_with_checks(
    subjects: Iterable[Factory | Subject], *, checks: Iterable[str] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Parametrise a test with one case for each method and check.

    The test takes ``method`` and ``check`` and calls ``check(method)``. Test ids read ``sam-resumes_mid_epoch``. An
    expected failure becomes a strict xfail with its reason.

    Args:
        subjects: Factories or `Subject` objects.
        checks: Names of the checks to run; None for all.

    Raises:
        UnknownNameError: There is no check of a given name.

    Example:
        >>> @parametrize_with_checks([Subject("sam", SAM, neutral=lambda: SAM(rho=0))])  # doctest: +SKIP
        ... def test_conformance(method, check):
        ...     check(method)
    """
    import pytest

    chosen = list(CHECKS) if checks is None else list(checks)
    cases = []
    for subject in map(as_subject, subjects):
        for name in (*chosen, *subject.expected_failures):
            if name not in CHECKS:
                raise UnknownNameError("check", name, CHECKS)
        for name in chosen:
            marks: list[Any] = []
            if name in subject.expected_failures:
                reason = subject.expected_failures[name]
                marks.append(pytest.mark.xfail(strict=True, raises=CheckFailure, reason=reason))
            cases.append(pytest.param(subject, PytestCheck(CHECKS[name]), id=f"{subject.name}-{name}", marks=marks))
    return pytest.mark.parametrize(("method", "check"), cases)
