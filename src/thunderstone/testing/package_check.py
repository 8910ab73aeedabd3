"""Putting everything a package declares through the kit, and what came out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from thunderstone.discovery import registry
from thunderstone.errors import ThunderstoneError
from thunderstone.specs import MethodSpec, StrategySpec
from thunderstone.testing.declared import subject_of
from thunderstone.testing.outcome import CheckRecord, Status
from thunderstone.testing.runner import check_method

SCHEMA = 1
"""Version of the JSON document; it goes up only when a key is removed or changes its meaning."""

# From the one that says the least of a rule to the one that says the most.
_WEIGHT: tuple[Status, ...] = ("skipped", "passed", "expected-failure", "failed")
# What the kit and tests on it import, and the host alone does not.
_OF_THE_EXTRA = frozenset({"pytest", "jsonargparse"})


@dataclass(frozen=True)
class MethodReport:
    """What the kit found of one method.

    Attributes:
        spec: Its declaration.
        records: One a check, in the order of the rules; empty when it could not be checked.
        broken: Why it could not be checked; empty when it was.
    """

    spec: MethodSpec
    records: tuple[CheckRecord, ...] = ()
    broken: str = ""

    def rules(self) -> dict[int, Status]:
        """The rules that were looked at: of each what says the most (failed, declared, passed, skipped)."""
        statuses: dict[int, Status] = {}
        for record in self.records:
            statuses[record.rule] = max(statuses.get(record.rule, "skipped"), record.status, key=_WEIGHT.index)
        return statuses


@dataclass(frozen=True)
class StrategyReport:
    """Whether a strategy can be used.

    Attributes:
        spec: Its declaration.
        broken: Why it cannot; empty when it can.
    """

    spec: StrategySpec
    broken: str = ""


@dataclass(frozen=True)
class PackageReport:
    """What the kit found of a package.

    Attributes:
        package: Its distribution's name.
        version: That distribution's version.
        methods: One report a method.
        strategies: One report a strategy.
    """

    package: str
    version: str
    methods: tuple[MethodReport, ...]
    strategies: tuple[StrategyReport, ...]

    @property
    def kept(self) -> bool:
        """Whether every rule is kept or its exception declared, and every strategy can be used."""
        failed = any(method.broken or "failed" in method.rules().values() for method in self.methods)
        return not failed and not any(strategy.broken for strategy in self.strategies)

    def rules(self) -> dict[int, Status]:
        """The rules that were looked at, over all methods."""
        statuses: dict[int, Status] = {}
        for method in self.methods:
            for rule, status in method.rules().items():
                statuses[rule] = max(statuses.get(rule, "skipped"), status, key=_WEIGHT.index)
        return statuses

    def summary(self) -> str:
        """``"9/10 rules"``: those no method breaks or has an exception of, out of those that apply to any."""
        if not self.methods:
            usable = sum(not strategy.broken for strategy in self.strategies)
            return f"{usable}/{len(self.strategies)} strategies"
        applying = [status for status in self.rules().values() if status != "skipped"]
        text = f"{applying.count('passed')}/{len(applying)} rules"
        broken = sum(bool(method.broken) for method in self.methods)
        return f"{text}, {broken} not checked" if broken else text

    def as_json(self) -> dict[str, Any]:
        """The report as one JSON document.

        Keys:
            ``schema``: `SCHEMA`.
            ``thunderstone``: The host's version.
            ``package``, ``version``: The distribution.
            ``kept``: Whether every rule is kept or its exception declared.
            ``summary``: E.g. ``"9/10 rules"``.
            ``methods``: A list of ``name``, ``target``, ``broken`` (why it could not be checked, or null), ``rules``
                (number → status), ``checks`` (a list of ``check``, ``rule``, ``status``, ``reason``, ``seconds``).
            ``strategies``: A list of ``kind``, ``name``, ``target``, ``broken``.
        """
        import thunderstone

        return {
            "schema": SCHEMA,
            "thunderstone": thunderstone.__version__,
            "package": self.package,
            "version": self.version,
            "kept": self.kept,
            "summary": self.summary(),
            "methods": [
                {
                    "name": method.spec.name,
                    "target": method.spec.target,
                    "broken": method.broken or None,
                    "rules": {str(rule): status for rule, status in method.rules().items()},
                    "checks": [
                        {
                            "check": record.check,
                            "rule": record.rule,
                            "status": record.status,
                            "reason": record.reason,
                            "seconds": round(record.seconds, 3),
                        }
                        for record in method.records
                    ],
                }
                for method in self.methods
            ],
            "strategies": [
                {
                    "kind": strategy.spec.kind,
                    "name": strategy.spec.name,
                    "target": strategy.spec.target,
                    "broken": strategy.broken or None,
                }
                for strategy in self.strategies
            ],
        }

    def as_badge(self) -> dict[str, Any]:
        """What shields.io makes a badge of: green when all is kept, yellow with declared exceptions, red otherwise."""
        declared = "expected-failure" in self.rules().values()
        colour = "red" if not self.kept else "yellow" if declared else "brightgreen"
        return {"schemaVersion": 1, "label": "conformance", "message": self.summary(), "color": colour}


def check_package(
    package: str,
    version: str,
    methods: Sequence[MethodSpec],
    strategies: Sequence[StrategySpec],
    *,
    checks: Iterable[str] | None = None,
    begin: Callable[[MethodSpec], None] = lambda spec: None,
    progress: Callable[[CheckRecord], None] = lambda record: None,
) -> PackageReport:
    """Put what a package declares through the kit.

    Args:
        package: Name of the distribution.
        version: Its version.
        methods: What of its methods to check.
        strategies: What of its strategies to check.
        checks: Names of the checks to run; None for all.
        begin: Called with each method before its checks.
        progress: Called with each record as it is made.
    """
    chosen = None if checks is None else list(checks)
    reports = []
    for spec in methods:
        begin(spec)
        try:
            records = check_method(subject_of(spec), checks=chosen, progress=progress)
        except ThunderstoneError as error:
            reports.append(MethodReport(spec, broken=f"{error}{_what_to_install(error)}"))
        else:
            reports.append(MethodReport(spec, tuple(records)))
    return PackageReport(package, version, tuple(reports), tuple(map(_strategy_report, strategies)))


def _what_to_install(error: ThunderstoneError) -> str:
    cause = error.__cause__
    missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
    return " HINT: pip install 'thunderstone[testing]'" if missing in _OF_THE_EXTRA else ""


def _strategy_report(spec: StrategySpec) -> StrategyReport:
    try:
        value = registry().strategy(spec.kind, spec.name).load()
    except ThunderstoneError as error:
        return StrategyReport(spec, str(error))
    if not callable(value):
        found = f"{spec.target!r} is {value!r}, which cannot be called. HINT: name a function or class"
        return StrategyReport(spec, found)
    return StrategyReport(spec)
