"""Values of arithmetic expressions that a model wrote: parsed, never evaluated as code."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from thunderstone import ThunderstoneError

LONGEST_EXPRESSION = 2_000
MOST_DIGITS = 400
_MOST_BITS = int(MOST_DIGITS * math.log2(10))
_LARGEST_EXPONENT = 64
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "²": "**2", "³": "**3", "^": "**"})
_NUMBER = re.compile(r"(?<![\w.])[-−+]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?(?:\s*/\s*[-−+]?\d+)?")


class ExpressionError(ThunderstoneError, ValueError):
    """A text is no arithmetic expression, or its value is too large to be worked out."""


def evaluate(text: str) -> Fraction:
    """The exact value of an expression of numbers, ``+ - * / × ÷ ** ^ ² ³`` and brackets.

    Numbers and results have at most `MOST_DIGITS` digits, and exponents are whole and at most 64: ``99**98**97`` is
    refused at once instead of being worked out.

    Raises:
        ExpressionError: It is something else, divides by zero, or grows too large.
    """
    if len(text) > LONGEST_EXPRESSION:
        raise ExpressionError(f"an expression of {len(text)} characters is too long; {LONGEST_EXPRESSION} are allowed")
    try:
        tree = ast.parse(text.strip().translate(_SIGNS), mode="eval")
        return _value(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, ExpressionError):
            raise
        raise ExpressionError(f"{text[:80]!r} is no arithmetic expression") from error


def _value(node: ast.AST) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        if isinstance(node.value, int):
            return _bounded(Fraction(node.value))
        if not math.isfinite(node.value):
            raise ExpressionError("a number is too large")
        # A float's shortest decimal is what was written: 0.1 is one tenth.
        return _bounded(Fraction(repr(node.value)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        return _bounded(_combined(node.op, _value(node.left), _value(node.right)))
    raise ExpressionError(f"{type(node).__name__} does not belong into arithmetic")


def _combined(operation: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    if isinstance(operation, ast.Add):
        return left + right
    if isinstance(operation, ast.Sub):
        return left - right
    if isinstance(operation, ast.Mult):
        return left * right
    if isinstance(operation, ast.Div):
        if right == 0:
            raise ExpressionError("division by zero")
        return left / right
    if isinstance(operation, ast.Pow):
        if right.denominator != 1 or abs(right) > _LARGEST_EXPONENT:
            raise ExpressionError(f"exponents are whole and at most {_LARGEST_EXPONENT}")
        if left == 0 and right < 0:
            raise ExpressionError("division by zero")
        return left ** int(right)
    raise ExpressionError(f"{type(operation).__name__} does not belong into arithmetic")


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
        raise ExpressionError(f"a number has more than {MOST_DIGITS} digits")
    return value


def last_number(text: str) -> Fraction | None:
    """The last number of a text, a fraction such as ``3/4`` as one, or None."""
    found = _NUMBER.findall(text[-LONGEST_EXPRESSION:])
    if not found:
        return None
    try:
        return evaluate(found[-1].replace(",", "").replace("_", ""))
    except ExpressionError:
        return None


class ArithmeticVerifier:
    """A reward function: whether the number a completion ends with is the answer.

    1 where they are equal, 0 where not or where the completion has no number, None where the answer cannot be read.

    Args:
        answer: Name of the column with the right answers: numbers, or expressions.
        tolerance: Largest distance that counts as equal, relative to the answer where that is above 1. 0 is exact.
        whole: Whether the whole completion has to be one expression whose value is compared, instead of the number it
            ends with.
    """

    def __init__(self, answer: str = "answer", tolerance: float = 0.0, whole: bool = False) -> None:
        self.answer, self.tolerance, self.whole = answer, tolerance, whole
        self.__name__ = "arithmetic"

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Rewards of completions (texts, or chat messages whose last is looked at)."""
        return against_answers(completions, columns[self.answer], self._reward)

    def _reward(self, completion: str, right: Fraction) -> float:
        found = self._found(completion)
        distance = None if found is None else abs(found - right)
        # A Fraction: comparing exact numbers with a float's bound would round them first.
        bound = Fraction(self.tolerance) * max(Fraction(1), abs(right))
        return float(distance is not None and distance <= bound)

    def _found(self, text: str) -> Fraction | None:
        if not self.whole:
            return last_number(text)
        try:
            return evaluate(text)
        except ExpressionError:
            return None


def against_answers(
    completions: Sequence[Any], answers: Sequence[Any], reward: Callable[[str, Fraction], float]
) -> list[float | None]:
    """The reward of each completion's text beside the value of its answer; None where the answer cannot be read."""
    rewards: list[float | None] = []
    for completion, answer in zip(completions, answers, strict=True):
        try:
            right = evaluate(str(answer))
        except ExpressionError:
            rewards.append(None)
            continue
        rewards.append(reward(text_of(completion), right))
    return rewards


def text_of(completion: Any) -> str:
    """The text of a completion: itself, or the content of the last chat message."""
    if isinstance(completion, str):
        return completion
    return str(completion[-1]["content"])
