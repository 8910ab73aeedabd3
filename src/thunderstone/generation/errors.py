"""What can go wrong while text is generated, beyond a bad argument."""

from __future__ import annotations

from thunderstone.errors import ThunderstoneError


class GenerationError(ThunderstoneError, RuntimeError):
    """A module cannot continue the prompts.

    Args:
        problem: What happened, e.g. ``"the logits hold NaN at step 3"``.
        hint: What to do instead.
    """

    def __init__(self, problem: str, hint: str) -> None:
        self.problem, self.hint = problem, hint
        super().__init__(f"generate: {problem}. HINT: {hint}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.problem, self.hint)
