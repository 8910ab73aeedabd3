"""Declarations refuse what could not be used later."""

import math
import re

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
        ("reference", "arXiv 2010.01412"),
    ],
)
def test_a_method_declaration_says_what_is_wrong(argument, value):
    with pytest.raises(ArgumentError) as caught:
        MethodSpec(**{**METHOD, argument: value})
    assert (caught.value.method, caught.value.argument, caught.value.value) == ("MethodSpec", argument, value)


def test_a_reason_that_ends_as_a_sentence_gets_no_second_end():
    for reason in ("there is no 'x'", "there is no 'x'.", "there is no 'x'. Did you mean 'y'?"):
        assert "HINT: z" in str(ArgumentError("A", "b", "x", reason, "z"))
        assert not re.search(r"[.?!][.?!]|'x' HINT", str(ArgumentError("A", "b", "x", reason, "z")))


@pytest.mark.parametrize(
    ("argument", "value"), [("title", None), ("authors", ["Foret", "Kleiner"]), ("year", "2021"), ("url", None)]
)
def test_a_reference_says_what_is_wrong(argument, value):
    reference = {"title": "Title", "authors": "Authors", "year": 2021, "url": "https://example.org"}
    with pytest.raises(ArgumentError) as caught:
        Reference(**{**reference, argument: value})
    assert (caught.value.method, caught.value.argument, caught.value.value) == ("Reference", argument, value)


def test_a_target_that_skips_itself_is_broken(tmp_path, monkeypatch):
    """Not all that an import raises is an Exception."""
    (tmp_path / "skips_itself.py").write_text("import pytest\npytest.skip('no device', allow_module_level=True)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BrokenPluginError, match=r"method 'sam' points to 'skips_itself:A', .* Skipped: no device"):
        MethodSpec(**{**METHOD, "target": "skips_itself:A"}).load()


def test_a_conformance_subject_is_imported_when_it_is_asked_for():
    assert MethodSpec(**METHOD).load_conformance() is None
    assert MethodSpec(**METHOD, conformance="math:tau").load_conformance() == math.tau


def test_a_conformance_subject_that_is_not_there_names_the_method_and_the_target():
    with pytest.raises(BrokenPluginError, match=r"conformance subject of method 'sam' points to 'a_b\.c:D'"):
        MethodSpec(**METHOD, conformance="a_b.c:D").load_conformance()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("kind", "perturbation"),
        ("kind", "a.b.c"),
        ("name", "L2"),
        ("target", "x"),
        ("summary", " "),
        ("reference", ("Title", "Authors", 2021, "https://example.org")),
    ],
)
def test_a_strategy_declaration_says_what_is_wrong(argument, value):
    with pytest.raises(ArgumentError) as caught:
        StrategySpec(**{**STRATEGY, argument: value})
    assert (caught.value.method, caught.value.argument, caught.value.value) == ("StrategySpec", argument, value)
