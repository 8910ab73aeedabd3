"""A card a method, with the sections users look for, and the arguments the class really has."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import thunderstone
from thunderstone.discovery import registry
from thunderstone.reference.methods_table import specs_below

SPECS = {spec.name: spec for spec in specs_below(Path(__file__).resolve().parents[3]) if spec.family != "host"}


@pytest.fixture(params=sorted(SPECS))
def spec(request):
    return SPECS[request.param]


@pytest.fixture
def card(spec, root):
    return (root / "docs" / "methods" / f"{spec.name}.md").read_text(encoding="utf-8")


def _headings(text):
    return re.findall(r"^## (.+)$", text, re.M)


def test_it_says_what_it_is(spec, card):
    assert card.startswith(f"# {spec.target.partition(':')[2]}\n")
    # By name: another test may have had everything loaded again since these tests were collected.
    distribution = registry().owner(registry().method(spec.name)).distribution
    # Some need an extra of their package.
    assert re.search(rf"^\* \*\*Name:\*\* `{spec.name}`, in `{distribution}[`\[]", card, re.M)
    assert re.search(r"^\* \*\*Papers?:\*\* ", card, re.M)
    assert spec.reference is None or spec.reference.url in card
    assert re.search(r"^\* \*\*Cost:\*\* \S", card, re.M)


def test_it_says_how_to_attach_it(spec, card):
    assert "Use" in _headings(card)
    package, _, class_name = spec.target.partition(":")
    assert re.search(rf"^from {package.partition('.')[0]} import .*\b{class_name}\b", card, re.M)
    assert re.search(rf"thunderstone run .*--with \"?{spec.name}\b", card)


def test_it_says_what_to_expect_and_what_not(card):
    headings = " ".join(_headings(card)).lower()
    assert "what to expect" in headings or "what it reports" in headings
    assert "what it does not go with" in headings or "does not go with" in headings
    # A monitor has its results in a section of its own.
    assert "eported" in card or "reports" in card.lower()


def test_its_arguments_are_those_of_the_class(spec, card):
    """In the order of the signature or not; a row may hold several that belong together."""
    rows = [line for line in card.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    arguments = inspect.signature(spec.load()).parameters
    assert set(arguments) <= told, f"the card has no row for {sorted(set(arguments) - told)}"


def test_defaults_are_those_of_the_class(spec, card):
    tables = re.findall(r"^\| Argument \| Default \|.*\n\|[ -|]+\n((?:\|.*\n)+)", card, re.M)
    assert tables, "there is no table of arguments"
    arguments = inspect.signature(spec.load()).parameters
    for row in "".join(tables).splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:3]]
        names = re.findall(r"`(\w+)`", cells[0])
        shown = cells[1].split(", ") if len(names) > 1 else [cells[1]]
        for name, text in zip(names, shown, strict=False):
            has_one = name in arguments and arguments[name].default is not inspect.Parameter.empty
            try:
                default = ast.literal_eval(text.strip("` "))
            except (SyntaxError, ValueError):
                continue  # in words, or on another card
            assert has_one, f"{name} has no default"
            assert default == arguments[name].default, f"{name}: {default!r} is not its default"


def test_the_index_has_every_method(spec, root):
    index = (root / "docs" / "methods" / "index.md").read_text(encoding="utf-8")
    line = next((line for line in index.splitlines() if f"[`{spec.name}`]({spec.name}.md)" in line), "")
    assert spec.summary in line, f"docs/methods/index.md: the row of {spec.name} does not say {spec.summary!r}"


def test_accuracies_of_pruning_are_those_of_the_table(root):
    """Where a card of the pruning family names the comparison, its numbers stand in the rows of its own method."""
    results = (root / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    table = results.partition("\n## Pruning methods\n")[2].partition("\n## ")[0]
    assert "| dense: 98.9 ± 0.4 |" in table
    told = set()
    for spec in SPECS.values():
        text = (root / "docs" / "methods" / f"{spec.name}.md").read_text(encoding="utf-8")
        for paragraph in text.split("\n\n"):
            if "[pruning methods](../../benchmarks/RESULTS.md#pruning-methods)" not in paragraph.replace("\n", " "):
                continue
            own = spec.target.partition(":")[2]
            rows = "\n".join(
                row for row in table.splitlines() if row.startswith((f"| {own}", "| dense", "| RandomPruning"))
            )
            numbers = re.findall(r"\d+\.\d ± \d\.\d", paragraph)
            assert numbers
            assert [number for number in numbers if number not in rows] == [], spec.name
            told.add(spec.name)
    assert told >= {"random_pruning", "random_search", "snip", "gradual_pruning", "granet", "structured_pruning"}


def test_every_method_of_the_workspace_is_looked_at():
    first_party = {spec.name for spec in thunderstone.methods().values() if spec.target.startswith("thunderstone_")}
    assert first_party == set(SPECS)
