"""Declarations refuse what could not be used later."""

import pytest

from thunderstone import ArgumentError, MethodSpec, Reference, StrategySpec

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
    ],
)
def test_a_method_declaration_says_what_is_wrong(argument, value):
    with pytest.raises(ArgumentError) as caught:
        MethodSpec(**{**METHOD, argument: value})
    assert (caught.value.method, caught.value.argument, caught.value.value) == ("MethodSpec", argument, value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("kind", "perturbation"), ("kind", "a.b.c"), ("name", "L2"), ("target", "x"), ("summary", " ")],
)
def test_a_strategy_declaration_says_what_is_wrong(argument, value):
    with pytest.raises(ArgumentError) as caught:
        StrategySpec(**{**STRATEGY, argument: value})
    assert (caught.value.method, caught.value.argument, caught.value.value) == ("StrategySpec", argument, value)
