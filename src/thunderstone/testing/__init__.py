"""The conformance kit: ten rules every method keeps, checked on modules that look like users'.

`check_method` returns records; `parametrize_with_checks` makes pytest tests of them. pytest is only needed for the
latter.
"""

from __future__ import annotations

from thunderstone.testing.checks import CHECKS
from thunderstone.testing.declared import subject_of
from thunderstone.testing.outcome import Check, CheckFailure, CheckRecord, CheckSkipped
from thunderstone.testing.parametrization import parametrize_with_checks
from thunderstone.testing.runner import check_method, run_check
from thunderstone.testing.subject import Subject

__all__ = [
    "CHECKS",
    "Check",
    "CheckFailure",
    "CheckRecord",
    "CheckSkipped",
    "Subject",
    "check_method",
    "parametrize_with_checks",
    "run_check",
    "subject_of",
]
