"""The page of the contract is what the code says, and cannot be edited into saying something else."""

from __future__ import annotations

import inspect
import re

import pytest

import thunderstone
from thunderstone.attachment.hookspecs import AttachmentHooks
from thunderstone.discovery import DiscoveryHooks
from thunderstone.reference.contract_page import main, signature, with_parts
from thunderstone.reference.generated_parts import DocumentError


@pytest.fixture
def page(root):
    return (root / "docs" / "contract.md").read_text(encoding="utf-8")


def specifications():
    for owner in (DiscoveryHooks, AttachmentHooks):
        yield from ((name, value) for name, value in vars(owner).items() if hasattr(value, "thunderstone_spec"))


def test_the_generated_parts_are_current(page):
    assert with_parts(page) == page, "HINT: make docs-update"


def test_every_hook_is_there_with_its_true_arguments(page):
    written = dict(re.findall(r"^### `(\w+)`\n\n`\1\((.*)\) -> .+`$", page, re.MULTILINE))
    wanted = {}
    for name, hook in specifications():
        first, *others = inspect.signature(hook).parameters.values()
        shown = [f"{each.name}: {each.annotation}" for each in others]
        wanted[name] = ", ".join([first.name, *shown] if hasattr(AttachmentHooks, name) else shown)
    assert written == wanted
    assert len(written) == 11


def test_a_signature_is_what_an_implementation_is_written_like():
    shown = "loss_terms(self, step: LossStep) -> Mapping[str, Tensor] | None"
    assert signature("loss_terms", AttachmentHooks) == shown
    assert signature("thunderstone_methods", DiscoveryHooks) == "thunderstone_methods() -> list[MethodSpec]"


def test_every_public_name_is_there_and_said_something_of(page):
    names = page.partition("| Name | What it is |")[2].partition("<!--")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", names, re.MULTILINE))
    assert sorted(rows) == sorted(thunderstone.__all__)
    assert all(len(text) > 10 for text in rows.values())


def test_an_edit_is_found_and_undone(page, tmp_path, capsys):
    document = tmp_path / "contract.md"
    document.write_text(page.replace("`loss_terms(self, step: LossStep)", "`loss_terms(self, batch)"), encoding="utf-8")
    assert main(["--check", str(document)]) == 1
    assert "out of date" in capsys.readouterr().err
    assert main([str(document)]) == 0
    assert document.read_text(encoding="utf-8") == page
    assert main(["--check", str(document)]) == 0


@pytest.mark.parametrize("damage", ["<!-- public names: end -->", "<!-- attachment hooks: begin "])
def test_a_page_without_its_comments_is_refused(page, tmp_path, capsys, damage):
    document = tmp_path / "contract.md"
    document.write_text(page.replace(damage, ""), encoding="utf-8")
    with pytest.raises(DocumentError, match="HINT: put these two lines"):
        with_parts(document.read_text(encoding="utf-8"))
    assert main([str(document)]) == 1
    assert "DocumentError" in capsys.readouterr().err
    assert main([str(tmp_path / "gone.md")]) == 1
