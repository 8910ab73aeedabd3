"""The kit's own behaviour: records, expected failures, subjects and pytest parametrisation."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest
import torch
from broken_arguments import AcceptsAnything
from sound_method import Sound

import thunderstone
from thunderstone import MethodSpec
from thunderstone.errors import ArgumentError, UnknownNameError
from thunderstone.testing import CHECKS, CheckFailure, Subject, check_method, parametrize_with_checks, run_check

CHEAP = "refuses_bad_values"


def test_a_factory_is_named_after_its_method() -> None:
    (record,) = check_method(lambda: Sound(gain=0.1), checks=[CHEAP])
    assert (record.method, record.check, record.rule, record.status) == ("sound", CHEAP, 10, "passed")
    assert record.reason == ""


def test_records_come_in_the_order_of_the_rules_and_as_they_are_made() -> None:
    seen: list[str] = []
    chosen = ["describes_itself", CHEAP, "matches_reference"]
    records = check_method(Sound, checks=chosen, progress=lambda record: seen.append(record.check))
    assert [record.check for record in records] == seen
    assert seen[0] == "matches_reference"
    assert sorted(seen) == sorted(chosen)


def test_an_expected_failure_is_recorded_with_its_reason() -> None:
    (record,) = check_method(AcceptsAnything, {CHEAP: "kept open on purpose"}, checks=[CHEAP])
    assert (record.status, record.reason) == ("expected-failure", "kept open on purpose")


def test_an_expected_failure_that_passes_is_a_failure() -> None:
    (record,) = check_method(Sound, {CHEAP: "was broken once"}, checks=[CHEAP])
    assert record.status == "failed"
    assert "passes, but was expected to fail (was broken once)" in record.reason


def test_expected_failures_of_a_subject_and_of_the_call_are_joined() -> None:
    subject = Subject("open", AcceptsAnything, expected_failures={CHEAP: "kept open"})
    records = check_method(subject, {"building_touches_nothing": "never"}, checks=[CHEAP, "building_touches_nothing"])
    assert {record.check: record.status for record in records} == {
        CHEAP: "expected-failure",
        "building_touches_nothing": "failed",
    }


@pytest.mark.parametrize("arguments", [{"checks": ["off_mean_off"]}, {"expected_failures": {"off_mean_off": "x"}}])
def test_an_unknown_check_is_refused_with_the_nearest_name(arguments: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'off_means_off'"):
        check_method(Sound, **arguments)
    with pytest.raises(UnknownNameError, match="Did you mean 'off_means_off'"):
        parametrize_with_checks(
            [Subject("sound", Sound, expected_failures=arguments.get("expected_failures", {}))],
            checks=arguments.get("checks"),
        )


@pytest.mark.parametrize(
    ("factory", "said"), [(3, "it must be callable"), (dict, "it made a dict, not a thunderstone.Method")]
)
def test_what_is_no_factory_of_a_method_is_refused(factory: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        check_method(factory)


def test_subjects_refuse_unknown_modules_and_factories_that_are_methods() -> None:
    with pytest.raises(ArgumentError, match="Did you mean 'transformer'"):
        Subject("sound", Sound, zoo=["transformers"])
    with pytest.raises(ArgumentError, match=r"module_arguments='cn'.*Did you mean 'cnn'"):
        Subject("sound", Sound, module_arguments={"cn": {"gain": 1.0}})
    with pytest.raises(ArgumentError, match=r"neutral=lambda: …"):
        Subject("sound", Sound, neutral=Sound(gain=0.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("adapted", "status"), [({"cnn": {"gain": 0.0}}, "failed"), ({"lstm": {"gain": 0.0}}, "passed")]
)
def test_a_subject_has_arguments_for_single_modules(adapted: dict[str, Any], status: str) -> None:
    """Switched off on one module, the method is found to do nothing there, and only there."""
    subject = Subject("sound", Sound, zoo=["cnn", "groups"], module_arguments=adapted)
    (record,) = check_method(subject, checks=["on_means_on"])
    assert record.status == status
    assert ("[cnn] the default setting Sound(gain=0.0) trains to the same weights" in record.reason) == (
        status == "failed"
    )


def test_the_switched_off_method_has_the_arguments_for_a_module_too() -> None:
    def off() -> Sound:
        return Sound(gain=0.0)

    broken = Subject("sound", Sound, neutral=off, zoo=["cnn", "groups"], module_arguments={"groups": {"gain": 2.0}})
    (record,) = check_method(broken, checks=["off_means_off"])
    assert (record.status, record.reason.partition(" ")[0]) == ("failed", "[groups]")


def test_killed_processes_build_the_method_with_the_arguments_for_their_module() -> None:
    """The method of a check of rule 4 lives in another process, which is told what to build."""
    subject = Subject("sound", Sound, zoo=["mlp"], module_arguments={"mlp": {"gain": float("nan")}})
    (record,) = check_method(subject, checks=["checkpoint_is_plain_data"])
    assert record.status == "failed"
    assert "Sound: gain=nan" in record.reason


def test_an_exception_of_the_factory_is_a_failure_that_names_it() -> None:
    def factory() -> Sound:
        raise OSError("no such ticket")

    (record,) = check_method(Subject("lost", factory), checks=["on_means_on"])
    assert (record.status, record.reason) == ("failed", "OSError: no such ticket")


def test_a_check_leaves_random_state_and_threads_alone() -> None:
    threads = torch.get_num_threads()
    random.seed(3)
    torch.manual_seed(3)
    expected = (random.random(), torch.rand(1))
    random.seed(3)
    torch.manual_seed(3)
    run_check(Subject("sound", Sound, zoo=["mlp"]), CHECKS["on_means_on"])
    assert (random.random(), torch.rand(1)) == expected
    assert torch.get_num_threads() == threads


def test_methods_that_the_environment_attaches_stay_out_of_the_kit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THUNDERSTONE_WITH", '[{"name": "no_such_method", "arguments": {}}]')
    (record,) = check_method(Subject("sound", Sound, zoo=["groups"]), checks=["on_means_on"])
    assert record.status == "passed"


def test_parametrisation_has_readable_ids_and_strict_expected_failures() -> None:
    subject = Subject("open", AcceptsAnything, expected_failures={CHEAP: "kept open"})
    mark = parametrize_with_checks([subject, Sound], checks=[CHEAP, "describes_itself"]).mark
    cases = mark.args[1]
    assert mark.args[0] == ("method", "check")
    assert [case.id for case in cases] == [
        f"open-{CHEAP}",
        "open-describes_itself",
        f"sound-{CHEAP}",
        "sound-describes_itself",
    ]
    (expected,) = cases[0].marks
    assert (expected.name, expected.kwargs["strict"], expected.kwargs["reason"]) == ("xfail", True, "kept open")
    assert not any(case.marks for case in cases[1:])


def test_a_parametrised_check_fails_with_the_rule_and_skips_with_the_reason() -> None:
    mark = parametrize_with_checks([AcceptsAnything], checks=[CHEAP, "matches_reference"]).mark
    (subject, failing), (_, skipping) = (case.values for case in mark.args[1])
    with pytest.raises(CheckFailure, match=rf"breaks rule 10 \({CHEAP}\): AcceptsAnything\(gain=nan\) is accepted"):
        failing(subject)
    with pytest.raises(pytest.skip.Exception, match="brings no reference"):
        skipping(subject)


def test_others_that_cannot_be_tried_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needy = MethodSpec("needy", "nowhere_at_all:Needy", "lost", "Cannot be imported.")
    monkeypatch.setattr(thunderstone, "methods", lambda: {"needy": needy})
    (record,) = check_method(Sound, checks=["composes"])
    assert record.status == "skipped"
    assert record.reason.startswith("no other method can be tried: needy (method 'needy' points to 'nowhere_at_all:")


def test_the_kit_needs_no_pytest() -> None:
    program = (
        "import sys; sys.modules['pytest'] = None\n"
        "from thunderstone import ExactResume\n"
        "from thunderstone.testing import check_method\n"
        "print(check_method(ExactResume, checks=['describes_itself'])[0].status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "passed"), done.stderr
