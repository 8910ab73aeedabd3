"""The checks, grouped by the rule they hold a method to."""

from __future__ import annotations

from thunderstone.testing.checks import (
    arguments,
    broken_input,
    cleanup,
    company,
    composition,
    counting,
    effect,
    evaluating,
    reporting,
    resuming,
    settings,
)
from thunderstone.testing.outcome import Check, registered

__all__ = [
    "CHECKS",
    "arguments",
    "broken_input",
    "cleanup",
    "company",
    "composition",
    "counting",
    "effect",
    "evaluating",
    "reporting",
    "resuming",
    "settings",
]

CHECKS: dict[str, Check] = registered()
"""Every check by name, in the order of the rules."""
