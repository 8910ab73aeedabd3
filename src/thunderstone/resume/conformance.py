"""What the conformance kit is told of `ExactResume`. Imported by checks alone."""

from __future__ import annotations

from thunderstone.resume.exact_resume import ExactResume
from thunderstone.testing import Subject

RESUME = Subject(
    "resume", ExactResume, neutral=lambda: ExactResume(enabled=False), changes_weights=False, reports=False
)
