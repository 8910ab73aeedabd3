"""Arithmetic expressions drawn at random."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

FORMS = ("integer", "fraction", "square", "cube")
OPERATIONS = "+-×÷"

_ARITHMETIC: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "×": operator.mul,
    "÷": operator.truediv,
}


@dataclass(frozen=True)
class Expression:
    """An expression with its value.

    Attributes:
        text: As it is shown, ``"(3 + 4) × 5²"``.
        value: Exact.
        key: The same text for expressions that differ in the order of sums and products alone.
        steps: How the value is worked out, ``"3 + 4 = 7"`` and so on.
    """

    text: str
    value: Fraction
    key: str
    steps: tuple[str, ...] = ()


def drawn_expression(
    draws: random.Random, level: int, largest: int, forms: Sequence[str], operations: str
) -> Expression:
    """An operand, joined with `level` further ones.

    Args:
        draws: Where everything comes from.
        level: Number of operations, at least 0.
        largest: Largest integer in an operand.
        forms: Kinds of operands to draw from.
        operations: Signs to draw from.
    """
    found = drawn_operand(draws, largest, forms)
    for _ in range(level):
        joined = None
        while joined is None:
            other = drawn_operand(draws, largest, forms)
            pair = (found, other) if draws.random() < 0.5 else (other, found)
            joined = _joined(*pair, draws.choice(operations))
        found = joined
    return found


def drawn_operand(draws: random.Random, largest: int, forms: Sequence[str]) -> Expression:
    """An integer, an unreduced fraction, a square or a cube."""
    form, number = draws.choice(forms), draws.randint(0, largest)
    if form == "fraction":
        denominator = draws.randint(1, largest)
        # In brackets: 1 ÷ 3/4 would be read from the left.
        text = f"({number}/{denominator})"
        return Expression(text, Fraction(number, denominator), text)
    power, sign = {"integer": (1, ""), "square": (2, "²"), "cube": (3, "³")}[form]
    return Expression(f"{number}{sign}", Fraction(number**power), f"{number}{sign}")


def _joined(left: Expression, right: Expression, sign: str) -> Expression | None:
    """Two expressions by an operation; None for a division by zero."""
    if sign == "÷" and right.value == 0:
        return None
    value = _ARITHMETIC[sign](left.value, right.value)
    # Brackets wherever there is an operation inside: precedence is not what is asked for.
    texts = [f"({side.text})" if side.steps else side.text for side in (left, right)]
    keys = [f"({side.key})" for side in (left, right)]
    if sign in "+×":
        keys.sort()
    # Values worked out before stand for what they are the value of.
    shown = [_as_operand(side.value) if side.steps else side.text for side in (left, right)]
    step = f"{shown[0]} {sign} {shown[1]} = {value}"
    return Expression(
        f"{texts[0]} {sign} {texts[1]}", value, f"{keys[0]}{sign}{keys[1]}", (*left.steps, *right.steps, step)
    )


def _as_operand(value: Fraction) -> str:
    return str(value) if value.denominator == 1 and value >= 0 else f"({value})"
