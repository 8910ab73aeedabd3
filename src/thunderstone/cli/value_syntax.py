"""Where a value written on the command line ends: separators, brackets and quotes, before any type is known."""

from __future__ import annotations

import json

_CLOSING = {"[": "]", "(": ")", "{": "}"}


class ValueSyntaxError(ValueError):
    """A text is not a value: a bracket or quote is left open. The message says which."""


def split(text: str, separator: str, *, most: int = -1) -> list[str]:
    """Cut a text at a separator that stands outside of brackets and quotes.

    A quote opens a quoted part only where a value begins, so that ``name=it's`` needs no quoting.

    Args:
        text: E.g. ``"rho=0.1,betas=[0.9,0.99]"``.
        separator: One character.
        most: Cut at most so many times; -1 is no limit.

    Returns:
        The parts, stripped; never empty (a text without the separator is one part).

    Raises:
        ValueSyntaxError: A bracket or quote is not closed, or closed without having been opened.
    """
    parts: list[str] = []
    expected: list[str] = []
    begin = position = 0
    at_start = True
    while position < len(text):
        character = text[position]
        if at_start and character in "\"'":
            position = _end_of_quote(text, position)
            at_start = False
            continue
        if character in _CLOSING:
            expected.append(_CLOSING[character])
        elif character in _CLOSING.values():
            if not expected or expected.pop() != character:
                raise ValueSyntaxError(f"{character!r} closes nothing in {text!r}")
        elif character == separator and not expected and most != len(parts):
            parts.append(text[begin:position].strip())
            begin = position + 1
        at_start = character in "=:,[({" or (at_start and character.isspace())
        position += 1
    if expected:
        raise ValueSyntaxError(f"{expected[-1]!r} is missing in {text!r}")
    parts.append(text[begin:].strip())
    return parts


def _end_of_quote(text: str, begin: int) -> int:
    """The position after the quote that closes the one at `begin`."""
    quote, position = text[begin], begin + 1
    while position < len(text):
        if text[position] == quote:
            return position + 1
        # Only double quotes know escapes, so that single quotes can hold a regular expression or a Windows path.
        position += 2 if text[position] == "\\" and quote == '"' else 1
    raise ValueSyntaxError(f"the quote {quote} is not closed in {text!r}")


def is_quoted(text: str) -> bool:
    """Whether the whole text is one quoted string."""
    return len(text) > 1 and text[0] in "\"'" and text[-1] == text[0] and _end_of_quote(text, 0) == len(text)


def unquoted(text: str) -> str:
    """The string a text stands for: the text itself, or what is between its quotes (JSON's escapes in double ones)."""
    if not is_quoted(text):
        return text
    if text[0] == "'":
        return text[1:-1]
    try:
        return str(json.loads(text, strict=False))
    except json.JSONDecodeError as error:
        raise ValueSyntaxError(f"{text} is not a JSON string: {error.msg}") from None


def items(text: str, brackets: str) -> list[str]:
    """The comma-separated parts between brackets, e.g. of ``"[1, 2]"``; one trailing comma is allowed.

    Raises:
        ValueSyntaxError: The text does not stand between one of the pairs in `brackets` (e.g. ``"[]()"``).
    """
    pairs = [brackets[index : index + 2] for index in range(0, len(brackets), 2)]
    if not any(len(text) > 1 and text[0] == pair[0] and text[-1] == pair[1] for pair in pairs):
        raise ValueSyntaxError(f"it must stand between {' or '.join(pairs)}")
    inner = text[1:-1].strip()
    if not inner:
        return []
    parts = split(inner, ",")
    if not parts[-1]:
        parts.pop()
    if not all(parts):
        raise ValueSyntaxError(f"there is nothing between two commas in {text!r}")
    return parts
