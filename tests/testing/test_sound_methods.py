"""Methods that keep the rules pass the kit: one written for it, and the host's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sound_method import Sound

from thunderstone.discovery import refresh, registry
from thunderstone.testing import CHECKS, Subject, check_method, parametrize_with_checks, subject_of

SUBJECTS = [
    Subject("sound", Sound, neutral=lambda: Sound(gain=0.0), reference=lambda method: None),
    subject_of(registry().method("resume")),
]


@pytest.fixture
def one_family(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only one family beside the host's own methods, of which every pair is tried for the page of compositions."""
    monkeypatch.setenv("THUNDERSTONE_DISABLE", "estimators,grpo,hyperfitting,pruning")
    refresh()
    yield
    monkeypatch.undo()
    refresh()


@parametrize_with_checks(SUBJECTS, checks=[name for name in CHECKS if name != "composes"])
def test_conformance(method, check) -> None:
    check(method)


@pytest.mark.usefixtures("one_family")
@parametrize_with_checks(SUBJECTS, checks=["composes"])
def test_composition(method, check) -> None:
    check(method)


def test_records_tell_what_was_skipped() -> None:
    (record,) = check_method(Sound, checks=["off_means_off"])
    assert (record.method, record.rule, record.status) == ("sound", 1, "skipped")
    assert record.reason == "the subject declares no neutral setting"
    assert record.seconds >= 0


def test_every_rule_has_a_check() -> None:
    assert {check.rule for check in CHECKS.values()} == set(range(1, 11))


@pytest.mark.parametrize("check", CHECKS.values(), ids=str)
def test_every_check_says_what_it_holds_a_method_to(check) -> None:
    assert check.summary.endswith(".")
