"""The page of what composes with what is what trainings say, as far as a moment's trainings can tell."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from pathlib import Path

import pytest

from thunderstone.reference import composition_matrix as module
from thunderstone.reference.composition_matrix import (
    ORDERED,
    REFUSED,
    TRAINS,
    UNTRIED,
    cells,
    composition_page,
    composition_specs,
    main,
)
from thunderstone.specs import MethodSpec
from thunderstone.testing import subject_of
from thunderstone.testing.pairs import Together, together

HINT = "HINT: make docs-update"


def specs(*names):
    return [MethodSpec(name, "a.b:C", "family", "Does something.") for name in names]


@pytest.fixture
def page():
    """A page of four methods: two that share nothing, two that own one thing, and one for which order matters."""
    outcomes = {pair: Together("train", "mlp") for pair in combinations("abcd", 2)}
    message = "A and B cannot be attached to one Trainer: both own the masks. HINT: leave *one* out"
    outcomes["a", "b"] = Together("refused", "mlp", message, "masks")
    outcomes["a", "c"] = Together("train", "mlp", order_matters=True)
    outcomes["c", "d"] = Together("untried", "lm", "c alone: ArgumentError:\n no `net.0`")
    return composition_page(specs(*"abcd"), outcomes)


# -- the page ----------------------------------------------------------------------------------------------------------


def test_cells_are_symmetric_and_can_be_read_back(page):
    found = cells(page)
    assert found["a", "b"] == found["b", "a"] == REFUSED
    assert found["c", "a"] == ORDERED
    assert found["d", "c"] == UNTRIED
    assert found["b", "d"] == TRAINS
    assert len(found) == 12


def test_reasons_stand_beneath(page):
    assert "**The masks.** `a` and `b`. For instance:\n\n> A and B cannot be attached" in page
    assert "leave \\*one\\* out" in page
    assert "to different weights:\n\n* `a` and `c`\n" in page
    assert "* `c` and `d`: c alone: ArgumentError: no \\`net.0\\`\n" in page


def test_methods_that_all_want_one_thing_are_listed_once():
    refused = {pair: Together("refused", "mlp", "No.", "masks") for pair in combinations("abc", 2)}
    others = {(name, "d"): Together("train", "mlp") for name in "ab"} | {("c", "d"): refused["a", "b"]}
    text = composition_page(specs(*"abcd"), {**refused, **others})
    assert "**The masks.** Any two of `a`, `b` and `c`; `c` and `d`. For instance:" in text


def test_a_page_says_nothing_of_what_does_not_happen():
    text = composition_page(specs("a", "b"), {("a", "b"): Together("train", "mlp")})
    assert [line for line in text.splitlines() if line.startswith("#")] == ["# What composes with what"]


def test_a_broken_pair_leaves_the_page_as_it_was(tmp_path, capsys, monkeypatch):
    page = tmp_path / "docs" / "composition.md"
    page.parent.mkdir()
    page.write_text("old")
    broken = [(("a", "b"), Together("broken", "mlp", "IndexError: 3"))]
    monkeypatch.setattr(module, "composition_specs", lambda root: specs("a", "b"))
    monkeypatch.setattr(module, "measure", lambda methods: broken)
    assert main([str(page)]) == 1
    assert page.read_text() == "old"
    assert capsys.readouterr().err.startswith("a and b: IndexError: 3\n")


def test_a_page_of_a_repository_that_is_not_installed_is_left_as_it_was(tmp_path, capsys):
    page = tmp_path / "docs" / "composition.md"
    page.parent.mkdir()
    page.write_text("old")
    assert main([str(page)]) == 1
    assert page.read_text() == "old"
    assert f"no installed method lies in {tmp_path}" in capsys.readouterr().err


def test_a_page_is_written_of_all_pairs(tmp_path, capsys, monkeypatch):
    page = tmp_path / "docs" / "composition.md"
    page.parent.mkdir()
    monkeypatch.setattr(module, "composition_specs", lambda root: specs("a", "b"))
    monkeypatch.setattr(module, "measure", lambda methods: [(("a", "b"), Together("train", "mlp"))])
    assert main([str(page)]) == 0
    assert cells(page.read_text()) == {("a", "b"): TRAINS, ("b", "a"): TRAINS}
    assert "1 pairs of 2 methods" in capsys.readouterr().out


# -- this project's ----------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
METHODS = composition_specs(ROOT)
NAMES = [spec.name for spec in METHODS]
NOT_TRAINED = {REFUSED: "refused", UNTRIED: "untried"}


@cache
def subject(name):
    (spec,) = (spec for spec in METHODS if spec.name == name)
    return subject_of(spec)


@cache
def briefly(first, second):
    return together(subject(first), subject(second), brief=True)


@pytest.fixture(scope="module")
def written():
    return (ROOT / "docs" / "composition.md").read_text(encoding="utf-8")


def test_the_page_has_every_pair_of_methods(written):
    assert cells(written).keys() == {(a, b) for a in NAMES for b in NAMES if a != b}, HINT


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[:-1])
def test_methods_go_together_as_the_page_says(written, name):
    """Rule 8 for every pair of them: in either order they train or are refused."""
    signs = cells(written)
    for other in NAMES[NAMES.index(name) + 1 :]:
        outcome = briefly(name, other)
        said = NOT_TRAINED.get(signs[name, other], "train")
        assert outcome.result == said, f"{name} and {other}: {outcome}. {HINT}"


@pytest.mark.parametrize("name", NAMES[::3])
def test_methods_resume_together_as_the_page_says(written, name):
    """A sample: with the next method it trains with, which may stand before it."""
    signs = cells(written)
    following = NAMES[NAMES.index(name) + 1 :] + NAMES
    other = next(other for other in following if signs.get((name, other)) in (TRAINS, ORDERED))
    first, second = sorted((name, other), key=NAMES.index)
    outcome = together(subject(first), subject(second))
    assert (outcome.result, outcome.reason) == ("train", "")
    assert outcome.order_matters == (signs[name, other] == ORDERED), HINT


def test_the_rest_of_the_page_follows(written):
    """Whatever else is changed on the page: it is what the outcomes read, and reasons are as they are given today."""
    outcomes = {}
    for pair in combinations(NAMES, 2):
        sign = cells(written)[pair]
        trained = Together("train", "", order_matters=sign == ORDERED)
        outcomes[pair] = briefly(*pair) if sign in NOT_TRAINED else trained
    assert composition_page(METHODS, outcomes) == written, HINT
