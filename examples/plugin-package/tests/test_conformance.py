"""The ten rules of Thunderstone: a test a method and check."""

from typing import Any

from thunderstone.testing import parametrize_with_checks

from thunderstone_flint.conformance import GRADIENT_NOISE, JSON_LINES


@parametrize_with_checks([GRADIENT_NOISE, JSON_LINES])
def test_conformance(method: Any, check: Any) -> None:
    check(method)
