"""Checks every method makes of its arguments, with messages that save an hour."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real

from thunderstone.errors import ArgumentError, suggestion


def finite(
    method: str,
    argument: str,
    value: object,
    hint: str,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """`value` as a float, or ArgumentError.

    Args:
        method: Who asks, e.g. ``"SAM"``.
        argument: The argument's name.
        value: What was passed.
        hint: What to pass instead.
        minimum: Smallest value allowed.
        maximum: Largest value allowed.
        above: Excluded lower bound, e.g. 0 for a temperature.
        below: Excluded upper bound, e.g. 1 for the decay of an average.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentError(method, argument, value, f"it must be a number, not {type(value).__name__}", hint)
    number = float(value)
    if not math.isfinite(number):
        raise ArgumentError(method, argument, value, "it must be finite", hint)
    too_low = number < minimum or (above is not None and number <= above)
    too_high = number > maximum or (below is not None and number >= below)
    if too_low or too_high:
        bounds = _bounds(minimum, maximum, above, below)
        raise ArgumentError(method, argument, value, f"it must be {bounds}", hint)
    return number


def _bounds(minimum: float, maximum: float, above: float | None, below: float | None) -> str:
    """The bounds that there are, in words."""
    if above is None and below is None and -math.inf < minimum and maximum < math.inf:
        return f"between {minimum:g} and {maximum:g}"
    lower = f"above {above:g}" if above is not None else f"at least {minimum:g}" if minimum > -math.inf else ""
    upper = f"below {below:g}" if below is not None else f"at most {maximum:g}" if maximum < math.inf else ""
    return " and ".join(filter(None, (lower, upper)))


def whole(method: str, argument: str, value: object, hint: str, *, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`.

    Args:
        method: Whose argument it is, for messages.
        argument: Its name.
        value: What was given.
        hint: What to pass instead.
        minimum: The smallest allowed.

    Raises:
        ArgumentError: It is no whole number, or smaller.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ArgumentError(method, argument, value, f"it must be a whole number, not {type(value).__name__}", hint)
    if value < minimum:
        raise ArgumentError(method, argument, value, f"it must be at least {minimum}", hint)
    return int(value)


def flag(method: str, argument: str, value: object, hint: str) -> bool:
    """`value` as a bool: a string such as ``"false"`` would count as true.

    Args:
        method: Whose argument it is, for messages.
        argument: Its name.
        value: What was given.
        hint: What to pass instead.

    Raises:
        ArgumentError: It is no bool.
    """
    if not isinstance(value, bool):
        raise ArgumentError(method, argument, value, f"it must be True or False, not {type(value).__name__}", hint)
    return value


def one_of(method: str, argument: str, value: object, known: Iterable[str]) -> str:
    """`value`, one of the `known` names.

    Args:
        method: Whose argument it is, for messages.
        argument: Its name.
        value: What was given.
        known: The names there are.

    Raises:
        ArgumentError: It is none of them; the message has the nearest.
    """
    names = sorted(known)
    if not isinstance(value, str) or value not in names:
        raise ArgumentError(method, argument, value, "there is no such choice", suggestion(str(value), names))
    return value


def captured(method: str, output: object, call: object) -> None:
    """Check the two arguments of methods that capture an output: which module's, and which of its calls.

    Args:
        method: Whose arguments they are, for messages.
        output: The name of a submodule, or None for the module's own forward.
        call: The number of the call, or None for the last.

    Raises:
        ArgumentError: `output` is neither a name nor None, or `call` is neither a whole number nor None.
    """
    if output is not None and not isinstance(output, str):
        hint = "name a submodule, or leave it out for the module's own forward"
        raise ArgumentError(method, "output", output, f"it must be a name, not {type(output).__name__}", hint)
    if call is not None and (isinstance(call, bool) or not isinstance(call, int)):
        hint = "0 is the first call of a step, -1 the last"
        raise ArgumentError(method, "call", call, f"it must be a whole number, not {type(call).__name__}", hint)
