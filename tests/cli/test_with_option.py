"""`--with NAME[:key=value,…]`: what it means, and what is said when it means nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thunderstone.cli.factory import VARIABLE
from thunderstone.cli.with_option import (
    Attached,
    build_together,
    format_option,
    from_environment,
    parse_option,
    to_environment,
)
from thunderstone.errors import ArgumentError, CompositionError, RequestError, UnknownNameError

pytestmark = pytest.mark.usefixtures("marking")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("mark", {}),
        (" mark ", {}),
        ("mark:amount=2", {"amount": 2.0}),
        ("mark: amount = 2 , steps=3", {"amount": 2.0, "steps": 3}),
        ("mark:shape=square,steps=none", {"shape": "square", "steps": None}),
        ("mark:betas=(0.5,0.6),layers=[a,'b,c']", {"betas": (0.5, 0.6), "layers": ["a", "b,c"]}),
        ("mark:path=a:b=c", {"path": Path("a:b=c")}),
    ],
)
def test_options_are_read_by_the_methods_signature(text, arguments):
    assert parse_option(text) == Attached("mark", arguments)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", RequestError, "names no method"),
        (":amount=2", RequestError, "names no method"),
        ("marc", UnknownNameError, "no method named 'marc'. Did you mean 'mark'?"),
        ("mark:", RequestError, "'' is not written as key=value. HINT: write NAME or NAME:key=value"),
        ("mark:amount", RequestError, "'amount' is not written as key=value"),
        ("mark:=2", RequestError, "'=2' is not written as key=value"),
        ("mark:amount=2,", RequestError, "'' is not written as key=value"),
        ("mark:betas=0.5,0.6", RequestError, "'0.6' is not written as key=value. HINT: put a list in brackets"),
        ("mark:amount=2,amount=3", RequestError, "amount is given twice"),
        ("mark:betas=(0.5", RequestError, "')' is missing"),
        ("mark:amonut=2", ArgumentError, "Mark: amonut='2' is not allowed: there is no argument of this name."),
        ("mark:amonut=2", ArgumentError, "Did you mean 'amount'?"),
        ("mark:amount=much", ArgumentError, "Mark: amount='much' is not allowed: it must be a number. HINT: amount is"),
        ("mark:steps=1.5", ArgumentError, "steps is of type int | None"),
        ("mark:shape=sqare", ArgumentError, "(did you mean 'square'?). HINT: shape is of type"),
        ("mark:betas=(1,2,3)", ArgumentError, "it must have 2 values, not 3"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_way_out(text, error, message):
    with pytest.raises(error) as caught:
        parse_option(text)
    assert message in str(caught.value)


ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "path": st.text(min_size=1).map(Path),
        "amount": st.floats(min_value=0, allow_nan=False),
        "shape": st.sampled_from(["round", "square"]),
        "steps": st.none() | st.integers(),
        "betas": st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)),
        "layers": st.lists(st.text()),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(ARGUMENTS)
def test_reading_a_written_option_gives_it_back(arguments):
    attached = Attached("mark", arguments)
    assert parse_option(format_option(attached)) == attached


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(ARGUMENTS, max_size=2))
def test_the_environment_variable_carries_options_unchanged(several):
    requested = [Attached("mark", arguments) for arguments in several]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, to_environment(requested))
        assert from_environment() == requested


def test_the_environment_variable_is_plain_json(monkeypatch):
    text = to_environment([parse_option("mark:betas=(0.5,0.6),path=a/b"), parse_option("stateful")])
    assert json.loads(text) == [
        {"name": "mark", "arguments": {"betas": [0.5, 0.6], "path": "a/b"}},
        {"name": "stateful", "arguments": {}},
    ]
    monkeypatch.setenv(VARIABLE, '{"name": "mark"}')
    assert from_environment() == [Attached("mark")], "one method need not stand in a list"
    monkeypatch.setenv(VARIABLE, "")
    assert from_environment() == []


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("mark", RequestError, "is not JSON"),
        ("[1]", RequestError, "1 names no method"),
        ('[{"name": 1}]', RequestError, "names no method"),
        ('[{"name": "mark", "arguments": [1]}]', RequestError, "the arguments of mark are no JSON object"),
        ('[{"name": "marc"}]', UnknownNameError, "Did you mean 'mark'?"),
        ('[{"name": "mark", "arguments": {"steps": "3"}}]', ArgumentError, "it must be none, or it must be a whole"),
        ('[{"name": "mark", "arguments": {"step": 3}}]', ArgumentError, "Did you mean 'steps'?"),
    ],
)
def test_a_variable_that_asks_for_nothing_sensible_is_refused(monkeypatch, text, error, message):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(error) as caught:
        from_environment()
    assert message in str(caught.value)


def test_methods_are_built_anew_each_time(marking):
    requested = [parse_option("mark:amount=2"), parse_option("stateful")]
    first, second = build_together(requested), build_together(requested)
    assert [type(method) for method in first] == [marking.Mark, marking.Stateful]
    assert first[0].amount == 2.0
    assert first[0] is not second[0]


def test_a_value_the_class_refuses_is_refused():
    with pytest.raises(ArgumentError, match=r"Mark: amount=-1.0 is not allowed: it must be 0 or more"):
        build_together([parse_option("mark:amount=-1")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["mark:amount=2", "mark:amount=2"], "leave one of them out"),
        (["stateful", "stateful"], "give them different amount"),
    ],
)
def test_methods_one_trainer_cannot_have_together_are_refused(options, message):
    with pytest.raises(CompositionError) as caught:
        build_together(map(parse_option, options))
    assert message in str(caught.value)


def test_instances_that_can_be_told_apart_may_go_together():
    assert len(build_together(map(parse_option, ["stateful:amount=1", "stateful:amount=2", "mark"]))) == 3
