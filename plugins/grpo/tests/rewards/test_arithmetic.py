"""Arithmetic is parsed, never evaluated."""

from __future__ import annotations

import contextlib
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderstone_grpo.rewards.arithmetic import ArithmeticVerifier, ExpressionError, evaluate, last_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) × 3", 9),
        ("7 ÷ 2", Fraction(7, 2)),
        ("0.1 + 0.2", Fraction(3, 10)),
        ("2 ** 3 ** 2", 512),
        ("3² + 2³", 17),
        ("2 ^ -2", Fraction(1, 4)),
        ("−5 - -3", -2),
        ("1e3 / 7", Fraction(1000, 7)),
        ("10 ** 64", 10**64),
    ],
)
def test_values_are_exact(text, value):
    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "99**98**97",
        "9**9**9**9",
        "(2**64)**64",
        "10**64 * 10**64 * 10**64 * 10**64 * 10**64 * 10**64 * 10**64",
        "9" * 5000,
        "1e400",
        "1e-308 ** 64",
        "0 ** -1",
        "1 / 0",
        "1 / (2 - 2)",
        "2 ** 0.5",
        "1 // 2",
        "1 if 1 else 2",
        "__import__('os').system('true')",
        "(lambda: 1)()",
        "[1][0]",
        "'1' * 3",
        "True + 1",
        "1j * 1j",
        "x + 1",
        "(" * 500 + "1" + ")" * 500,
        "-" * 1500 + "1",
        "",
        "1 +",
        "1; 2",
        "\x00",
    ],
)
def test_everything_else_is_refused_at_once(text):
    begin = time.monotonic()
    with pytest.raises(ExpressionError):
        evaluate(text)
    assert time.monotonic() - begin < 1


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=40) | st.text("0123456789+-*/(). ", max_size=40))
def test_any_text_is_a_number_or_an_error(text):
    with contextlib.suppress(ExpressionError):
        assert isinstance(evaluate(text), Fraction)
    found = last_number(text)
    assert found is None or isinstance(found, Fraction)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1 + 1 = 2; 2 × 3 = 6", 6),
        ("the answer is 1,234.5.", Fraction("1234.5")),
        ("so x = -3/4", Fraction(-3, 4)),
        ("3 - 5", 5),
        ("(−7)", -7),
        ("none", None),
        ("v2", None),
        ("1/0", None),
    ],
)
def test_the_last_number_of_a_text(text, number):
    found = last_number(text)
    assert (found if number is None or found is None else abs(found)) == (None if number is None else abs(number))


def test_the_verifier_says_right_wrong_or_cannot_say():
    verifier = ArithmeticVerifier()
    completions = ["= 7", "it is 8", "no idea", [{"role": "assistant", "content": "7.0"}], "7"]
    assert verifier(completions, answer=["7", "7", "7", 7, "what"], prompts=[""] * 5) == [1.0, 0.0, 0.0, 1.0, None]
    assert ArithmeticVerifier(tolerance=0.01)(["3.14"], answer=["22/7"]) == [1.0]
    assert ArithmeticVerifier(whole=True)(["3 + 4", "3 + 4 = 7"], answer=["7", "7"]) == [1.0, 0.0]
