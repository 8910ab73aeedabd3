"""Calls reward functions, none of which is trusted."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.arguments import finite, flag
from thunderstone_grpo.rewards.call import Answer, call
from thunderstone_grpo.rewards.killable import KillableFunction
from thunderstone_grpo.rewards.scores import Failure, Scores, weighted_total

RewardFunction = Callable[..., Any]


class RewardRunner:
    """Scores completions with reward functions as TRL has them.

    ``reward(prompts=..., completions=..., completion_ids=..., **columns) -> list[float | None]``, or a coroutine
    function; coroutines of several functions run at the same time. ``log_metric(name, value)`` and ``log_extra(column,
    values)`` are among the arguments. Nothing a function does ends the run or counts as a reward: exceptions, lists of
    the wrong length, entries that are no finite numbers, and calls that take too long make completions unscorable, and
    are told in `Scores.failures`.

    Args:
        functions: One, or several.
        weights: One a function; None for 1 each.
        timeout: Seconds a call may take, in a process of its own that is killed otherwise, see `KillableFunction`. None
            calls it here, where nothing can stop it.
        isolate: After a call that failed, ask for each completion alone, so that only those it fails on are unscorable
            (after `GIVE_UP` failures in a row without a success the rest is given up). For functions that look at one
            completion at a time only: one that compares those of a call would give other rewards.
        who: Who asks, for messages.

    Raises:
        ArgumentError: There is no function, something cannot be called, or the weights do not fit.
    """

    GIVE_UP = 4

    def __init__(
        self,
        functions: RewardFunction | Sequence[RewardFunction],
        weights: Sequence[float] | None = None,
        *,
        timeout: float | None = None,
        isolate: bool = False,
        who: str = "RewardRunner",
    ) -> None:
        self.functions: list[Any] = list(functions) if isinstance(functions, Sequence) else [functions]
        if not self.functions:
            raise ArgumentError(who, "reward", functions, "there is no reward function", "pass at least one")
        for function in self.functions:
            if not callable(function):
                hint = "pass reward(prompts, completions, **columns) -> list of numbers"
                raise ArgumentError(who, "reward", function, f"a {type(function).__name__} cannot be called", hint)
        self.names = _names(self.functions)
        self.weights = (
            [1.0] * len(self.functions)
            if weights is None
            else [finite(who, "weights", weight, "pass a number for each reward function") for weight in weights]
        )
        if len(self.weights) != len(self.functions):
            reason = f"there are {len(self.functions)} reward functions"
            raise ArgumentError(who, "weights", weights, reason, "pass one number for each")
        if timeout is not None:
            finite(who, "timeout", timeout, "pass seconds, or None for no limit", above=0)
        self.isolate = flag(who, "isolate", isolate, "True asks again for each completion after a failure")
        self._callers: list[_Here | KillableFunction] = [
            _Here(function) if timeout is None else KillableFunction(who, function, timeout)
            for function in self.functions
        ]

    def score(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> Scores:
        """Rewards of N completions.

        Args:
            prompts: N, one a completion: text, or chat messages.
            completions: N, the same.
            completion_ids: N lists of token ids.
            columns: Lists of N entries; what has no such length (``trainer_state``) is given as it is.
        """
        count = len(completions)
        if count == 0:
            return Scores(torch.zeros(0).double(), {name: torch.zeros(0).double() for name in self.names})
        arguments = {
            "prompts": list(prompts),
            "completions": list(completions),
            # Plain numbers: a tensor would have the processes of reward functions load torch.
            "completion_ids": [[int(token) for token in ids] for ids in completion_ids],
            **columns,
        }
        # All are begun before the first is waited for.
        begun = [caller.send(arguments, count) for caller in self._callers]
        answers = [
            caller.receive() if early is None else early for caller, early in zip(self._callers, begun, strict=True)
        ]
        return self._scores(answers, arguments, count)

    def close(self) -> None:
        """End the processes. Scoring afterwards starts them again."""
        for caller in self._callers:
            caller.close()

    def __enter__(self) -> RewardRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _scores(self, answers: Sequence[Answer], arguments: Mapping[str, Any], count: int) -> Scores:
        parts: dict[str, Tensor] = {}
        failures: list[Failure] = []
        failed = torch.zeros(count, dtype=torch.bool)
        metrics: dict[str, list[float]] = {}
        extra: dict[str, list[Any]] = {}
        for name, caller, answer in zip(self.names, self._callers, answers, strict=True):
            values: list[float | None] = [None] * count
            read = [(range(count), answer)]
            if answer.failure is not None and self.isolate and count > 1:
                read = self._one_by_one(caller, arguments, answer, count)
            for rows, part in read:
                for metric, given in part.metrics.items():
                    metrics.setdefault(metric, []).extend(given)
                for column, entries in part.extra.items():
                    extra.setdefault(column, []).extend(entries)
                if part.failure is not None:
                    failures.append(Failure(name, part.failure[0], tuple(rows), part.failure[1]))
                    continue
                for row, value in zip(rows, part.values, strict=True):
                    values[row] = value
                by_kind: dict[str, list[int]] = {}
                for place, (kind, _) in part.kinds.items():
                    by_kind.setdefault(kind, []).append(place)
                for kind, places in by_kind.items():
                    message = part.kinds[places[0]][1]
                    failures.append(Failure(name, kind, tuple(rows[place] for place in places), message))
            parts[name] = torch.tensor([torch.nan if value is None else value for value in values], dtype=torch.float64)
        for failure in failures:
            failed[list(failure.rows)] = True
        means = {metric: sum(given) / len(given) for metric, given in metrics.items()}
        total = weighted_total(parts, self.weights, failed)
        return Scores(total, parts, tuple(failures), means, extra)

    def _one_by_one(
        self, caller: _Here | KillableFunction, arguments: Mapping[str, Any], whole: Answer, count: int
    ) -> list[tuple[range, Answer]]:
        found: list[tuple[range, Answer]] = []
        successes = failures = 0
        for row in range(count):
            single = {name: _row(value, row, count) for name, value in arguments.items()}
            answer = caller.send(single, 1) or caller.receive()
            found.append((range(row, row + 1), answer))
            successes, failures = successes + (answer.failure is None), failures + (answer.failure is not None)
            if successes == 0 and failures == self.GIVE_UP:
                return [*found, (range(row + 1, count), whole)] if row + 1 < count else found
        return found


class _Here:
    """A function that is called in this process. Coroutines are begun by `send` and waited for by `receive`."""

    def __init__(self, function: RewardFunction) -> None:
        self._function = function
        self._begun: tuple[threading.Thread, list[Answer]] | Answer | None = None
        self._waits = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004  # the method itself is looked at
        )

    def send(self, arguments: Mapping[str, Any], count: int) -> Answer | None:
        if not self._waits:
            return call(self._function, arguments, count)
        answers: list[Answer] = []
        thread = threading.Thread(
            target=lambda: answers.append(call(self._function, arguments, count)), name="reward function", daemon=True
        )
        thread.start()
        self._begun = (thread, answers)
        return None

    def receive(self) -> Answer:
        begun, self._begun = self._begun, None
        if not isinstance(begun, tuple):
            return Answer(failure=("crash", "it was not called"))
        thread, answers = begun
        thread.join()
        return answers[0] if answers else Answer(failure=("crash", "its thread ended"))

    def close(self) -> None:
        pass


def _row(value: Any, row: int, count: int) -> Any:
    return [value[row]] if isinstance(value, (list, tuple)) and len(value) == count else value


def _names(functions: Sequence[RewardFunction]) -> list[str]:
    names: list[str] = []
    for function in functions:
        base = getattr(function, "__name__", None) or getattr(getattr(function, "func", None), "__name__", None)
        base = base or type(function).__name__
        same = sum(name == base or (name.startswith(f"{base}_") and name[len(base) + 1 :].isdigit()) for name in names)
        names.append(base if not same else f"{base}_{same + 1}")
    return names
