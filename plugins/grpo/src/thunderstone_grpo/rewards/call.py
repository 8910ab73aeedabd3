"""One call of one reward function, and what may be read out of its answer. Runs here or in a process of its own."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any


@dataclass
class Answer:
    """What a call came to. Primitives, so that it can be sent between processes.

    Attributes:
        values: A reward a completion: a number, None for "cannot be scored", NaN where the entry was no number.
        kinds: By row, why an entry is no reward (``"type"``, ``"not_finite"``), and what it was.
        failure: Kind and message where there are no values.
        metrics: What was given to ``log_metric``.
        extra: What was given to ``log_extra``.
    """

    values: list[float | None] = field(default_factory=list)
    kinds: dict[int, tuple[str, str]] = field(default_factory=dict)
    failure: tuple[str, str] | None = None
    metrics: dict[str, list[float]] = field(default_factory=dict)
    extra: dict[str, list[Any]] = field(default_factory=dict)


def call(function: Callable[..., Any], arguments: Mapping[str, Any], count: int) -> Answer:
    """Call a function and read its answer; whatever it raises becomes a failure.

    Args:
        function: ``reward(prompts, completions, completion_ids=..., **columns) -> list[float | None]``, or a coroutine
            function. Without ``**`` it is given only what it names.
        arguments: All there is to be given.
        count: How many completions there are.
    """
    answer = Answer()

    def log_metric(name: str, value: float) -> None:
        answer.metrics.setdefault(str(name), []).append(float(value))

    def log_extra(column: str, values: list[Any]) -> None:
        answer.extra.setdefault(str(column), []).extend(values)

    # Lists of its own: a function may empty them, and others are given the same ones.
    own = {name: list(value) if isinstance(value, list) else value for name, value in arguments.items()}
    given = {**own, "log_metric": log_metric, "log_extra": log_extra}
    try:
        result = function(**accepted(function, given))
        if inspect.isawaitable(result):
            result = _awaited(result)
        read(result, count, answer)
    # A SystemExit of a reward function is a failure too; Ctrl-C is the user's.
    except (Exception, SystemExit) as error:
        answer.failure = "exception", f"{type(error).__name__}: {error}"[:500]
    return answer


def accepted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments a function can be given: all with ``**``, otherwise those it names."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C, without a signature
        return dict(arguments)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(arguments)
    names = {parameter.name for parameter in parameters}
    return {name: value for name, value in arguments.items() if name in names}


def read(result: Any, count: int, answer: Answer) -> None:
    """Take a list of rewards apart; what is none of them is said."""
    if hasattr(result, "tolist"):  # tensors and arrays
        result = result.tolist()
    if not isinstance(result, (list, tuple)):
        answer.failure = "type", f"it returned {type(result).__name__} and no list"
        return
    if len(result) != count:
        # A list of length 1 is no exception: one reward for all would be a reward that nobody gave.
        answer.failure = "length", f"it returned {len(result)} rewards for {count} completions"
        return
    for row, entry in enumerate(result):
        value = entry.item() if hasattr(entry, "item") and getattr(entry, "size", None) is not None else entry
        if value is None:
            answer.values.append(None)
            continue
        if not isinstance(value, Real):
            answer.kinds[row] = "type", f"it returned {type(value).__name__} for a reward"
        elif not math.isfinite(value):
            answer.kinds[row] = "not_finite", f"it returned {float(value)} for a reward"
        answer.values.append(math.nan if row in answer.kinds else float(value))


def _awaited(result: Any) -> Any:
    """The result of an awaitable, in a loop of its own: the caller's may be running (in a notebook it is)."""

    async def waited() -> Any:
        return await result

    outcome: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(waited()))
        except BaseException as error:  # raised again below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="reward function", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]
