"""Where checks find a subject's methods and the runs that several of them look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.callbacks import Callback

from thunderstone.attachment.method import Method
from thunderstone.errors import UnsupportedSettingError
from thunderstone.testing.memory_logger import Entry
from thunderstone.testing.outcome import CheckFailure, CheckSkipped
from thunderstone.testing.settings import PLAIN, Setting
from thunderstone.testing.subject import Subject
from thunderstone.testing.training import Run, train
from thunderstone.testing.zoo import CASES, Case

# Runs without any method are the same for every subject of a process.
_PLAIN_RUNS: dict[tuple[Case, str], Run] = {}


class Bench:
    """A subject on the bench.

    Attributes:
        subject: What is checked.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._runs: dict[tuple[str, str], Run] = {}
        self.kept: dict[str, Any] = {}

    def method(self, case: Case | None = None) -> Method:
        """A new method in its default setting, with the arguments that the subject declares for a module."""
        return self._adapted(self.subject.default(), case)

    def neutral(self, case: Case) -> Method:
        """A new method that is switched off.

        Raises:
            CheckSkipped: The subject declares no such setting.
        """
        if self.subject.neutral is None:
            raise CheckSkipped("the subject declares no neutral setting")
        return self._adapted(self.subject.neutral(), case)

    def _adapted(self, method: Method, case: Case | None) -> Method:
        arguments = self.subject.module_arguments.get(case.name) if case is not None else None
        return type(method)(**{**method.arguments, **arguments}) if arguments else method

    @property
    def label(self) -> str:
        """The method's class, as error messages call it."""
        return type(self.method()).__name__

    @property
    def namespace(self) -> str:
        """What stands before the slash in the names of the method's metrics."""
        method = self.method()
        return method.name or type(method).__name__

    def cases(self) -> list[Case]:
        """The modules the subject is tried on."""
        if self.subject.cases:
            return list(self.subject.cases)
        return [case for case in CASES.values() if self.subject.zoo is None or case.name in self.subject.zoo]

    def case(self, *preferred: str) -> Case:
        """The first of the preferred modules that is in the subject's zoo, or else the zoo's first."""
        available = {case.name: case for case in self.cases()}
        return next((available[name] for name in preferred if name in available), next(iter(available.values())))

    def leading(self, what: str) -> Case:
        """The module that validates, tests, predicts and is resumed: the zoo's ``"mlp"``, or the first of one's own.

        Args:
            what: What it is needed for, in words.

        Raises:
            CheckSkipped: The subject leaves it out.
        """
        if self.subject.cases or any(case.name == "mlp" for case in self.cases()):
            return self.case("mlp")
        raise CheckSkipped(f"{what} is tried on the module 'mlp', which is not in the subject's zoo")

    def plain(self, case: Case, setting: Setting = PLAIN) -> Run:
        """The run without a method."""
        key = (case, setting.name)
        if key not in _PLAIN_RUNS:
            _PLAIN_RUNS[key] = train(case, [], setting)
        return _PLAIN_RUNS[key]

    def default(self, case: Case, setting: Setting = PLAIN) -> Run:
        """The run with the method in its default setting.

        Raises:
            CheckSkipped: The method refuses this setting, in the way it should.
        """
        key = (case.name, setting.name)
        if key not in self._runs:
            self._runs[key] = self.train(case, [self.method(case)], setting)
        return self._runs[key]

    def train(self, case: Case, callbacks: Sequence[Callback], setting: Setting = PLAIN, **options: Any) -> Run:
        """Train, with a refusal turned into CheckSkipped and any other exception into CheckFailure."""
        try:
            return train(case, callbacks, setting, **options)
        except UnsupportedSettingError as error:
            if self.label in str(error):
                raise CheckSkipped(f"[{case.name}, {setting.name}] refused: {error}") from error
            raise CheckFailure(
                f"[{case.name}, {setting.name}] refused, but the message does not name {self.label}: {error}"
            ) from error
        except Exception as error:
            raise CheckFailure(f"[{case.name}, {setting.name}] {type(error).__name__}: {error}") from error


def expected_entries(bench: Bench, plain: Run) -> list[Entry]:
    """What the module logs in as many trainings as the subject's rounds.

    The step that Lightning gives loggers goes on from one to the next; where the module gives it, each is the first.
    """
    steps = steps_of_a_round(plain)
    return [
        (step if step is None or is_direct(metrics) else step + number * steps, metrics)
        for number in range(bench.subject.rounds)
        for step, metrics in plain.entries
    ]


def is_direct(metrics: Mapping[str, float]) -> bool:
    """Whether a module of the zoo has made this entry by a call of the logger, with a step of its own choice."""
    return "direct" in metrics


def steps_of_a_round(plain: Run) -> int:
    """How far the step that loggers are given gets in one training."""
    return 1 + max((step for step, _ in plain.entries if step is not None), default=-1)


def own_entries(bench: Bench, run: Run) -> list[Entry]:
    """The log entries of a run without the method's own metrics."""
    prefix = f"{bench.namespace}/"
    own: list[Entry] = []
    for step, metrics in run.entries:
        rest = {key: value for key, value in metrics.items() if not key.startswith(prefix)}
        # A call that is the method's alone carries the epoch too, as Lightning's own calls do.
        if len(rest) == len(metrics) or set(rest) - {"epoch"}:
            own.append((step, rest))
    return own
