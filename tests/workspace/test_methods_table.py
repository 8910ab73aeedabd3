"""The generator of the table of methods."""

from __future__ import annotations

import dataclasses

import pytest

import thunderstone
from thunderstone.discovery import registry
from thunderstone.reference import methods_table as module
from thunderstone.reference.generated_parts import DocumentError
from thunderstone.reference.methods_table import BEGIN, END, main, methods_table, specs_below, with_table


@pytest.fixture
def sam():
    return thunderstone.methods()["sam"]


def test_a_row_says_what_the_registry_says(sam, tmp_path):
    header, rule, row = methods_table([sam], tmp_path).splitlines()
    assert header.count("|") == rule.count("|") == row.count("|") == 5
    assert row == (
        f"| `sam` | {sam.summary} | [{sam.reference.title}]({sam.reference.url}) ({sam.reference.year}) "
        "| `thunderstone-sharpness` |"
    )


def test_a_method_links_to_its_card_where_there_is_one(sam, tmp_path):
    (tmp_path / "docs" / "methods").mkdir(parents=True)
    (tmp_path / "docs" / "methods" / "sam.md").touch()
    assert "| [`sam`](docs/methods/sam.md) |" in methods_table([sam], tmp_path)


def test_rows_are_sorted_by_family_and_name(tmp_path):
    specs = [spec for spec in thunderstone.methods().values() if spec.family == "sharpness"]
    tables = {methods_table(order, tmp_path) for order in (specs, specs[::-1])}
    (table,) = tables
    assert table.index("`asam`") < table.index("`sam`")


def test_what_would_break_a_cell_does_not(sam, tmp_path, monkeypatch):
    odd = dataclasses.replace(sam, summary="a | b", reference=None)
    monkeypatch.setattr(module.registry(), "owner", lambda spec: registry().plugins[0])
    row = methods_table([odd], tmp_path).splitlines()[-1]
    assert row.startswith("| `sam` | a \\| b |  | `")


def test_only_methods_of_this_tree_are_listed(root, tmp_path):
    assert {"sam", "asam"} <= {spec.name for spec in specs_below(root)}
    assert {spec.name for spec in specs_below(root / "callbacks" / "sharpness")} >= {"sam", "asam"}
    assert specs_below(tmp_path) == []


def test_the_table_replaces_what_stood_between_the_comments():
    document = f"# Title\n\n{BEGIN}\nold\n{END}\n\nrest\n"
    changed = with_table(document, "new")
    assert changed == f"# Title\n\n{BEGIN}\nnew\n{END}\n\nrest\n"
    assert with_table(changed, "new") == changed


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}\n{END}\n{BEGIN}\n{END}"])
def test_a_document_without_one_pair_of_comments_is_refused(text):
    with pytest.raises(DocumentError, match=r"README\.md does not hold one pair of comments[\s\S]*HINT"):
        with_table(text, "table", "README.md")


def test_the_command_rewrites_and_then_finds_nothing_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(type(registry()), "raise_failures", lambda self: None)
    document = tmp_path / "README.md"
    document.write_text(f"{BEGIN}\nold\n{END}\n")
    assert main(["--check", str(document)]) == 1
    assert "out of date" in capsys.readouterr().err
    assert document.read_text() == f"{BEGIN}\nold\n{END}\n"
    assert main([str(document)]) == 0
    assert "| Method | What it does | Paper | Package |" in document.read_text()
    assert main(["--check", str(document)]) == 0


def test_the_command_refuses_to_leave_out_a_plugin_that_failed(tmp_path, capsys, monkeypatch):
    def failed(self):
        raise thunderstone.BrokenPluginError("plug-in 'x' could not be loaded")

    monkeypatch.setattr(type(registry()), "raise_failures", failed)
    document = tmp_path / "README.md"
    document.write_text(f"{BEGIN}\nold\n{END}\n")
    assert main([str(document)]) == 1
    assert "plug-in 'x' could not be loaded" in capsys.readouterr().err
    assert "old" in document.read_text()


def test_the_command_says_what_it_cannot_read(tmp_path, capsys):
    assert main([str(tmp_path / "missing.md")]) == 1
    assert "missing.md" in capsys.readouterr().err
