"""Which subject a method's declaration leads to."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from sound_method import Sound

from thunderstone import BrokenPluginError, Method, MethodSpec
from thunderstone.discovery import registry
from thunderstone.testing import Subject, subject_of

SUBJECT = Subject("sound", Sound)


@pytest.fixture
def declared(monkeypatch):
    """Makes a declaration whose subject is what is given."""
    module = ModuleType("sound_conformance")
    monkeypatch.setitem(sys.modules, "sound_conformance", module)

    def declare(value, target="sound_method:Sound"):
        vars(module)["SOUND"] = value
        return MethodSpec("sound", target, "sounds", "Scales.", conformance="sound_conformance:SOUND")

    return declare


def test_a_subject_is_taken_as_it_is(declared):
    assert subject_of(declared(SUBJECT)) is SUBJECT


def test_a_callable_is_called(declared):
    assert subject_of(declared(lambda: SUBJECT)) is SUBJECT


def test_without_a_declaration_there_are_the_settings_of_the_kit():
    subject = subject_of(MethodSpec("sound", "sound_method:Sound", "sounds", "Scales."))
    assert (subject.name, subject.default, subject.neutral, subject.zoo) == ("sound", Sound, None, None)
    assert subject.expected_failures == {}


def test_a_class_of_another_name_is_refused():
    with pytest.raises(BrokenPluginError, match=r"'sounding' is Sound, whose name is 'sound': .* HINT: name: ClassVar"):
        subject_of(MethodSpec("sounding", "sound_method:Sound", "sounds", "Scales."))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "which is a int and not a thunderstone.testing.Subject. HINT: Subject('sound', Sound)"),
        (Sound, "which is a type and not"),
        (lambda: None, "which is a NoneType and not"),
        (lambda: {}["key"], "which raises KeyError: 'key'"),
    ],
)
def test_what_is_no_subject_is_refused(declared, value, said):
    with pytest.raises(BrokenPluginError) as caught:
        subject_of(declared(value))
    assert str(caught.value).startswith("method 'sound' declares conformance='sound_conformance:SOUND', ")
    assert said in str(caught.value)


class Pitch(Method):
    """Has no default.

    Args:
        hertz: Of the note.
    """

    def __init__(self, hertz: float) -> None:
        self.hertz = hertz


def test_the_subject_of_another_class_is_refused(declared, monkeypatch):
    monkeypatch.setattr(sys.modules["sound_conformance"], "Pitch", Pitch, raising=False)
    for value in (SUBJECT, lambda: SUBJECT):
        with pytest.raises(BrokenPluginError) as caught:
            subject_of(declared(value, "sound_conformance:Pitch"))
        assert "conformance='sound_conformance:SOUND', which makes a Sound and not a Pitch. HINT: " in str(caught.value)


def test_a_subject_that_makes_nothing_is_left_to_its_checks(declared):
    def lost() -> Method:
        raise OSError("no such ticket")

    subject = Subject("sound", lost)
    assert subject_of(declared(subject)) is subject


def test_a_method_that_needs_an_argument_needs_a_subject(declared, monkeypatch):
    monkeypatch.setattr(sys.modules["sound_conformance"], "Pitch", Pitch, raising=False)
    with pytest.raises(BrokenPluginError) as caught:
        subject_of(MethodSpec("pitch", "sound_conformance:Pitch", "sounds", "Notes."))
    said = "method 'pitch' declares no conformance=, and Pitch cannot be made without hertz=. HINT: let conformance="
    assert str(caught.value).startswith(said)


def test_a_target_that_is_no_method_is_refused():
    with pytest.raises(BrokenPluginError, match="not a subclass of"):
        subject_of(MethodSpec("sound", "builtins:dict", "sounds", "Scales."))


def test_every_first_party_method_declares_its_subject():
    for spec in registry().methods.values():
        if spec.target.startswith("thunderstone"):
            assert spec.conformance is not None, spec.name
            assert subject_of(spec).name == spec.name
