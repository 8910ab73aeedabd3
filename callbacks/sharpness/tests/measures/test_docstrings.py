"""The examples in the measures' docstrings do what they show."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["adaptive", "eigenvalues", "logits", "metrics", "opposing"])
def test_examples_in_docstrings(name: str) -> None:
    result = doctest.testmod(import_module(f"thunderstone_sharpness.measures.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
