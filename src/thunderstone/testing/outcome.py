"""How a check ends, and the register of checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from thunderstone.testing.bench import Bench

Status = Literal["passed", "failed", "expected-failure", "skipped"]

RULES = {
    1: "off means off",
    2: "on means on",
    3: "matches an independent reference",
    4: "resumes exactly",
    5: "leaves nothing behind",
    6: "counts once",
    7: "runs where the Trainer runs",
    8: "composes",
    9: "reports",
    10: "explains itself",
}
"""The ten rules in a few words, by number."""


class CheckFailure(AssertionError):
    """A method breaks a rule; the message says where and how."""


class CheckSkipped(Exception):
    """A check does not apply to a method; the message says why."""


@dataclass(frozen=True)
class CheckRecord:
    """The result of one check of one method.

    Attributes:
        method: The subject's name.
        check: The check's name.
        rule: Number of the rule it belongs to, 1 to 10.
        status: ``"passed"``, ``"failed"``, ``"expected-failure"`` or ``"skipped"``.
        reason: Why it failed or was skipped; empty when it passed.
        seconds: How long it took.
    """

    method: str
    check: str
    rule: int
    status: Status
    reason: str
    seconds: float


@dataclass(frozen=True)
class Check:
    """One check of one rule.

    Attributes:
        name: E.g. ``"resumes_mid_epoch"``.
        rule: Number of the rule, 1 to 10.
        summary: One line.
        function: Does it: takes the bench with the subject, and raises CheckFailure or CheckSkipped.
    """

    name: str
    rule: int
    summary: str
    function: Callable[[Bench], None]

    def __str__(self) -> str:
        return self.name


_REGISTER: dict[str, Check] = {}


def check(rule: int) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Register a function ``check_<name>(bench)`` as a check of a rule.

    It raises CheckFailure where the method breaks the rule, and CheckSkipped where it does not apply; any other
    exception is a failure too.
    """

    def register(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
        name = function.__name__.removeprefix("check_")
        summary = (function.__doc__ or "").strip().partition("\n")[0]
        _REGISTER[name] = Check(name, rule, summary, function)
        return function

    return register


def registered() -> dict[str, Check]:
    """Every registered check by name, sorted by rule."""
    return dict(sorted(_REGISTER.items(), key=lambda item: item[1].rule))
