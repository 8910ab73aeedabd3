"""What can go wrong while a measure is taken."""

from __future__ import annotations

from thunderstone import ThunderstoneError


class MeasureError(ThunderstoneError, RuntimeError):
    """A measure cannot be taken of this module, loss or data.

    Args:
        measure: Which one, e.g. ``"hessian_trace"``.
        problem: What is wrong.
        hint: What to do instead.
    """

    def __init__(self, measure: str, problem: str, hint: str) -> None:
        self.measure, self.problem, self.hint = measure, problem, hint
        super().__init__(f"{measure}: {problem}. HINT: {hint}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.measure, self.problem, self.hint)


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the error's kind where it has none."""
    return str(error).partition("\n")[0] or type(error).__name__
