"""Every method of the family keeps the ten rules."""

from __future__ import annotations

from typing import Any

from thunderstone.testing import CHECKS, parametrize_with_checks, subject_of
from thunderstone_pruning.plugin import thunderstone_methods


# Of rule 8 the workspace's tests try every pair once.
@parametrize_with_checks(
    map(subject_of, thunderstone_methods()), checks=[name for name in CHECKS if name != "composes"]
)
def test_conformance(method: Any, check: Any) -> None:
    check(method)
