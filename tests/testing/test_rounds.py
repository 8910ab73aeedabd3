"""A method that trains more than once is held to what as many trainings count."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import pytest
from sound_method import Sound

from thunderstone import Round, hookimpl
from thunderstone.errors import ArgumentError
from thunderstone.testing import Subject, check_method

COUNTED = ("counts_hooks_once", "counts_logs_once", "counts_progress_once", "reports_at_the_right_step")


class Repeated(Sound):
    """Trains `rounds` times, each time from the first weights.

    Args:
        gain: As in `Sound`.
        rounds: How often.
    """

    name: ClassVar[str] = "repeated"
    exclusive: ClassVar[frozenset[str]] = frozenset({"rounds"})

    def __init__(self, gain: float = 0.5, rounds: int = 3) -> None:
        super().__init__(gain)
        self.rounds = rounds

    @hookimpl
    def another_round(self, round: Round) -> bool:
        return round.index + 1 < self.rounds

    @hookimpl
    def next_round(self, round: Round) -> None:
        round.rewind()
        self.record("next", round.index + 1)


def statuses(rounds: int) -> dict[str, str]:
    subject = Subject("repeated", partial(Repeated, rounds=3), zoo=("mlp", "metrics"), rounds=rounds)
    return {record.check: record.status for record in check_method(subject, checks=COUNTED)}


def test_three_rounds_count_as_three_trainings() -> None:
    assert statuses(3) == dict.fromkeys(COUNTED, "passed")


def test_another_number_of_rounds_is_found_out() -> None:
    assert statuses(1) == {**dict.fromkeys(COUNTED, "failed"), "counts_progress_once": "passed"}
    assert statuses(4) == {
        **dict.fromkeys(COUNTED, "failed"),
        "counts_progress_once": "passed",
        "reports_at_the_right_step": "passed",
    }


@pytest.mark.parametrize("rounds", [0, 1.5, "2"])
def test_a_subject_refuses_what_is_no_number_of_rounds(rounds: object) -> None:
    with pytest.raises(ArgumentError, match="whole number from 1 on"):
        Subject("repeated", Repeated, rounds=rounds)  # type: ignore[arg-type]
