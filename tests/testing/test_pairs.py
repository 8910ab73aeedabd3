"""Two methods on one Trainer: do they train, in which order, and resume? And what is found of those that do not."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import pytest
from lightning.pytorch import LightningModule, Trainer
from sound_method import Sound

from thunderstone import CompositionError, GradientStep, Method, hookimpl
from thunderstone.testing import Subject
from thunderstone.testing.outcome import CheckFailure
from thunderstone.testing.pairs import _require_resumable, together
from thunderstone.testing.zoo import CASES


class Louder(Method):
    """Doubles gradients."""

    name: ClassVar[str] = "louder"

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        step.gradients = [None if g is None else g * 2 for g in step.gradients]


class Shifted(Louder):
    """Adds to gradients."""

    name: ClassVar[str] = "shifted"
    exclusive: ClassVar[frozenset[str]] = frozenset({"offset"})

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        step.gradients = [None if g is None else g + 0.01 for g in step.gradients]


class ShiftedBack(Shifted):
    """Takes from gradients."""

    name: ClassVar[str] = "shifted_back"


class Forgetful(Sound):
    """Has state that is not saved."""

    name: ClassVar[str] = "forgetful"

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class Impatient(Louder):
    """Ends training after its first epoch."""

    name: ClassVar[str] = "impatient"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


class Late(Louder):
    """Finds out after an update that it is not alone."""

    name: ClassVar[str] = "late"

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if len(self.attachment.methods) > 2:
            raise CompositionError("hour", "Late", "Louder", "be on time")


class First(Louder):
    """Has to come first."""

    name: ClassVar[str] = "first"

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        methods = [type(method) for method in self.attachment.methods]
        if Louder in methods and methods.index(Louder) < methods.index(First):
            raise CompositionError("front", "First", "Louder", "attach it first")


def subject(cls: type[Method], **declared: Any) -> Subject:
    return Subject(cls.name or cls.__name__, cls, **{"zoo": ("dict_output",), **declared})


LOUDER = subject(Louder)


def test_they_train_and_resume() -> None:
    outcome = together(LOUDER, subject(Sound))
    assert (outcome.result, outcome.case, outcome.reason) == ("train", "dict_output", "")


@pytest.mark.parametrize("brief", [False, True])
def test_the_order_is_looked_at(brief: bool) -> None:
    assert together(LOUDER, subject(Shifted), brief=brief).order_matters
    assert not together(LOUDER, subject(Impatient), brief=True).order_matters


def test_a_refusal_tells_what_both_own() -> None:
    outcome = together(subject(Shifted), subject(ShiftedBack))
    assert (outcome.result, outcome.resource) == ("refused", "offset")
    assert outcome.reason.startswith("Shifted and ShiftedBack cannot be attached to one Trainer: both own the offset")


def test_the_module_is_one_that_suits_both() -> None:
    assert together(LOUDER, subject(Shifted, zoo=("mlp", "dict_output")), brief=True).case == "dict_output"


@pytest.mark.parametrize("brief", [False, True])
def test_a_method_that_does_not_train_alone_says_nothing_of_a_pair(brief: bool) -> None:
    def lost() -> Method:
        raise OSError("no such ticket")

    outcome = together(LOUDER, Subject("lost", lost, zoo=("dict_output",)), brief=brief)
    assert (outcome.result, outcome.reason) == ("untried", "lost alone: OSError: no such ticket")


class Unnamed(Louder):
    """Keeps its argument in an attribute of another name, so that not even a Trainer can be made with it."""

    def __init__(self, rate: float = 0.1) -> None:
        self._rate = rate


def test_a_method_no_trainer_takes_says_nothing_of_a_pair() -> None:
    outcome = together(LOUDER, Subject("unnamed", Unnamed, zoo=("dict_output",)), brief=True)
    assert outcome.result == "untried"
    assert outcome.reason.startswith("unnamed alone: AttributeError: ")


class Numbered(Louder):
    """Counts updates; the first of several forgets them when it is resumed, which changes no weight."""

    name: ClassVar[str] = "numbered"
    identified_by: ClassVar[tuple[str, ...]] = ("number",)

    def __init__(self, number: int = 1) -> None:
        self.number = number
        self.count = 0

    @hookimpl
    def after_update(self, step: Any) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = 0 if self.number == 1 else state_dict["count"]


def test_of_two_methods_of_one_class_each_is_looked_at() -> None:
    first, second = (Subject(f"numbered_{n}", partial(Numbered, n), zoo=("dict_output",)) for n in (1, 2))
    with pytest.raises(CheckFailure, match=r"Numbered\(number=1\)\.count: 14 became 5$"):
        _require_resumable(CASES["dict_output"], (first, second))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Forgetful, "louder before forgetful] the resumed run against the uninterrupted differs: weights."),
        (Impatient, "training ended before batch 9, from which it was to be resumed"),
        (Late, "it is refused only after 1 updates: Late and Louder"),
        (First, "it is refused in one order and not in the other: First and Louder"),
    ],
)
def test_what_breaks_is_told(other: type[Method], said: str) -> None:
    outcome = together(LOUDER, subject(other))
    assert outcome.result == "broken"
    assert said in outcome.reason
