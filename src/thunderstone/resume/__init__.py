"""Exact resumption of an interrupted run. Importing this package loads neither torch nor Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thunderstone.resume.exact_resume import ExactResume

__all__ = ["ExactResume"]


def __getattr__(name: str) -> Any:
    if name == "ExactResume":
        from thunderstone.resume.exact_resume import ExactResume

        return ExactResume
    raise AttributeError(f"module 'thunderstone.resume' has no attribute {name!r}")
