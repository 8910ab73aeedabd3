"""What is put through the checks: a method's factories, and what its author declares about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from thunderstone.attachment.method import Method
from thunderstone.errors import ArgumentError, suggestion

if TYPE_CHECKING:
    from thunderstone.testing.zoo import Case

Factory = Callable[[], Method]


@dataclass(frozen=True, eq=False)
class Subject:
    """A method as the conformance kit sees it.

    Attributes:
        name: What records and test ids call it, e.g. ``"sam"``.
        default: Makes the method in its ordinary, effective setting. Called once a run; returns a new instance.
        neutral: Makes it in the setting that switches it off, e.g. ``lambda: SAM(rho=0)``; None where there is none.
        zoo: Names of the modules it is tried on (see `thunderstone.testing.zoo`); None for all of them.
        cases: Modules of one's own that it is tried on in place of the zoo's, for a method that asks for what no module
            of the zoo has. Each has a loader of seven batches and, like the module ``"mlp"``, may validate, test and
            predict; what they are made by can be imported, since some runs are in processes of their own. Checks that
            look at one module take the first.
        module_arguments: Arguments that take the place of the factories' on single modules of the zoo, by the module's
            name, e.g. ``{"cnn": {"output": "head"}}`` for a method that has to be told a submodule.
        changes_weights: The default setting trains to other weights than no method. False for a monitor.
        plain_first_step: The first forward pass sees the weights the module was built with, so what it logs equals
            the run without the method. False for a method that changes weights before training, e.g. a pruner.
        reports: The default setting reports at least one scalar in a short run.
        rounds: How many trainings one `fit` is in the default setting, for a method that owns the rounds: what is
            counted is then held against that many.
        reference: Compares the method with an independent implementation and raises AssertionError where they differ.
            Given a method in its default setting. None where the method's own tests do it.
        expected_failures: Names of checks it cannot pass, each with the reason. Strict: such a check must fail.
    """

    name: str
    default: Factory
    neutral: Factory | None = None
    zoo: Sequence[str] | None = None
    cases: Sequence[Case] = ()
    module_arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    changes_weights: bool = True
    plain_first_step: bool = True
    reports: bool = True
    rounds: int = 1
    reference: Callable[[Method], None] | None = None
    expected_failures: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from thunderstone.testing.zoo import CASES

        for attribute in ("default", "neutral"):
            value = getattr(self, attribute)
            if not callable(value) and (attribute == "default" or value is not None):
                raise ArgumentError(
                    "Subject", attribute, value, "it must be a callable without arguments", f"{attribute}=lambda: …"
                )
        for attribute in ("zoo", "module_arguments"):
            for name in getattr(self, attribute) or ():
                if name not in CASES and not self.cases:
                    raise ArgumentError("Subject", attribute, name, "there is no such module", suggestion(name, CASES))
        if not isinstance(self.rounds, int) or self.rounds < 1:
            hint = "a method that trains once more has rounds=2"
            raise ArgumentError("Subject", "rounds", self.rounds, "it must be a whole number from 1 on", hint)
        if self.cases and self.zoo is not None:
            hint = "leave one of the two out"
            raise ArgumentError("Subject", "cases", self.cases, "zoo= names modules to be tried on as well", hint)
        for case in self.cases:
            if case.name in CASES:
                hint = "give it another name"
                raise ArgumentError("Subject", "cases", case.name, "a module of the zoo has this name", hint)


def as_subject(
    factory: Factory | Subject, expected_failures: Mapping[str, str] | None = None, neutral: Factory | None = None
) -> Subject:
    """A factory wrapped as a subject, named after the method it makes; a subject with more expected failures."""
    if isinstance(factory, Subject):
        merged = {**factory.expected_failures, **(expected_failures or {})}
        if merged == factory.expected_failures and neutral is None:
            return factory
        return replace(factory, expected_failures=merged, neutral=neutral or factory.neutral)
    if not callable(factory):
        raise ArgumentError(
            "check_method", "factory", factory, "it must be callable", "pass a class, lambda: Method(…) or a Subject"
        )
    method = factory()
    if not isinstance(method, Method):
        raise ArgumentError(
            "check_method",
            "factory",
            factory,
            f"it made a {type(method).__name__}, not a thunderstone.Method",
            "pass a callable without arguments that makes the method",
        )
    return Subject(
        method.name or type(method).__name__, factory, neutral, expected_failures=dict(expected_failures or {})
    )
