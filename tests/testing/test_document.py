"""The guide for authors names every check."""

from __future__ import annotations

import re
from pathlib import Path

from thunderstone.testing import CHECKS

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


def test_the_page_lists_every_check_under_its_rule_and_no_other() -> None:
    listed: dict[str, int] = {}
    for rule, names in re.findall(r"^\| (\d+) \| (`.*?`) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        names_of_row = re.findall(r"`(.*?)`", names)
        for name in names_of_row:
            listed[f"{names_of_row[0]}{name[1:]}" if name.startswith("…") else name] = int(rule)
    assert listed == {check.name: check.rule for check in CHECKS.values()}
