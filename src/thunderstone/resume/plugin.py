"""What the host itself offers to discovery."""

from __future__ import annotations

from thunderstone.markers import hookimpl
from thunderstone.specs import MethodSpec

THUNDERSTONE_API = "1.0"


@hookimpl
def thunderstone_methods() -> list[MethodSpec]:
    """The built-in methods."""
    return [
        MethodSpec(
            name="resume",
            target="thunderstone.resume:ExactResume",
            family="host",
            summary="A resumed run ends with the same bits as one that was never interrupted",
            conformance="thunderstone.resume.conformance:RESUME",
        )
    ]
