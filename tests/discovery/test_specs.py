"""Declarations refuse what could not be used later."""

import math

import pytest

from thunderstone import ArgumentError, BrokenPluginError, MethodSpec, Reference, StrategySpec

METHOD = {"name": "sam", "target": "a.b:C", "family": "sharpness", "summary": "Flat minima."}
STRATEGY = {"kind": "sharpness.perturbation", "name": "l2", "target": "a.b:c", "summary": "The l2 ball."}


def test_good_declarations_are_kept_as_they_are():
    reference = Reference("Title", "Authors", 2021, "https://example.org")
    assert MethodSpec(**METHOD, reference=reference).reference is reference
    assert StrategySpec(**STRATEGY).kind == "sharpness.perturbation"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("name", "SAM"),
        ("name", ""),
        ("name", "2sam"),
        ("name", None),
        ("target", "a.b"),
        ("target", "a.b:"),
        ("target", ":C"),
        ("family", "Sharp ness"),
        ("summary", ""),
        ("summary", "two\nlines"),
        ("summary", None),
        ("conformance", ""),
        ("conformance", "a.b"),
        ("conformance", 3),
    ],
)
def test_a_method_declaration_says_what_is_wrong(argument, value):
    with pytest.raises(ArgumentError) as caught:
        MethodSpec(**{**METHOD, argument: value})
    assert (caught.value.method, caught.value.argument, caught.value.value) == ("MethodSpec", argument, value)


def test_a_conformance_subject_is_imported_when_it_is_asked_for():
    assert MethodSpec(**METHOD).load_conformance() is None
    assert MethodSpec(**METHOD, conformance="math:tau").load_conformance() == math.tau


def test_a_conformance_subject_that_is_not_there_names_the_method_and_the_target():
    with pytest.raises(BrokenPluginError, match=r"conformance subject of method 'sam' points to 'a_b\.c:D'"):
        MethodSpec(**METHOD, conformance="a_b.c:D").load_conformance()


@pytest.mark.parametrize(
    ("argument", "value"),
    [("kind", "perturbation"), ("kind", "a.b.c"), ("name", "L2"), ("target", "x"), ("summary", " ")],
)
def test_a_strategy_declaration_says_what_is_wrong(argument, value):
    with pytest.raises(ArgumentError) as caught:
        StrategySpec(**{**STRATEGY, argument: value})
    assert (caught.value.method, caught.value.argument, caught.value.value) == ("StrategySpec", argument, value)
