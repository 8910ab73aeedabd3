"""Every error this project raises on purpose, in one hierarchy.

Each message says who (the method or plug-in), what (the argument or setting and its value), why, and what to do
instead. The parts are kept as attributes so that a program can read them too.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate a typo most probably stands for, or None when nothing is close.

    Args:
        name: What was typed.
        candidates: The names there are.
    """
    matches = get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return matches[0] if matches else None


def suggestion(name: str, candidates: Iterable[str]) -> str:
    """`Did you mean 'x'?` where something is close, otherwise the sorted candidates.

    Args:
        name: What was typed.
        candidates: The names there are.
    """
    known = sorted(candidates)
    close = nearest(name, known)
    if close is not None:
        return f"Did you mean {close!r}?"
    return f"Known names: {', '.join(known)}." if known else "Nothing is registered."


def sentence(text: object) -> str:
    """A text, an error's too, with a full stop unless it ends as a sentence does: more may follow it."""
    words = str(text)
    return words if words.endswith((".", "?", "!")) else f"{words}."


class ThunderstoneError(Exception):
    """Base of all errors raised on purpose by Thunderstone and its plug-ins."""


class ArgumentError(ThunderstoneError, ValueError):
    """A method was built with an argument it cannot take.

    Args:
        method: Who refuses, e.g. ``"SAM"``.
        argument: The argument's name, e.g. ``"rho"``.
        value: What was passed.
        reason: Why it cannot be, in words that stand after a colon.
        hint: What to do instead.
    """

    def __init__(self, method: str, argument: str, value: object, reason: str, hint: str) -> None:
        self.method, self.argument, self.value, self.reason, self.hint = method, argument, value, reason, hint
        super().__init__(f"{method}: {argument}={value!r} is not allowed: {sentence(reason)} HINT: {hint}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.method, self.argument, self.value, self.reason, self.hint)


class UnsupportedSettingError(ThunderstoneError, RuntimeError):
    """A method cannot work in the run it was attached to (strategy, manual optimization, …).

    Args:
        method: Who refuses, e.g. ``"SAM"``.
        setting: The setting and its value, e.g. ``"automatic_optimization=False"``.
        reason: Why it cannot be.
        hint: The way out.
    """

    def __init__(self, method: str, setting: str, reason: str, hint: str) -> None:
        self.method, self.setting, self.reason, self.hint = method, setting, reason, hint
        super().__init__(f"{method} cannot run with {setting}: {sentence(reason)} HINT: {hint}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.method, self.setting, self.reason, self.hint)


class CompositionError(ThunderstoneError, RuntimeError):
    """Two attached methods want something that only one of them can have.

    Args:
        resource: What both own, e.g. ``"gradient"``.
        first: One owner.
        second: The other owner.
        hint: The way out.
    """

    def __init__(self, resource: str, first: str, second: str, hint: str) -> None:
        self.resource, self.first, self.second, self.hint = resource, first, second, hint
        super().__init__(
            f"{first} and {second} cannot be attached to one Trainer: both own the {resource}. HINT: {hint}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.resource, self.first, self.second, self.hint)


class RequestError(ThunderstoneError, ValueError):
    """The command line asked for something that cannot be done as it was written."""


class StepError(ThunderstoneError, RuntimeError):
    """A method used a step object in a way the attachment cannot honour."""


class ResumeError(ThunderstoneError, RuntimeError):
    """A checkpoint cannot be resumed exactly."""


class DiscoveryError(ThunderstoneError):
    """Base of what can go wrong while plug-ins are found and loaded."""


class UnknownNameError(DiscoveryError, LookupError):
    """No method (or strategy of a kind) has this name.

    Args:
        what: What was looked up, e.g. ``"method"`` or ``"pruning.score strategy"``.
        name: The name that was asked for.
        known: The names that exist.
        hint: More about the way out, e.g. plug-ins that failed to load.
    """

    def __init__(self, what: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.what, self.name, self.known, self.hint = what, name, tuple(sorted(known)), hint
        super().__init__(f"There is no {what} named {name!r}. {suggestion(name, self.known)} {hint}".rstrip())

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.what, self.name, self.known, self.hint)


class NameConflictError(DiscoveryError):
    """Two distributions claim one name."""


class BrokenPluginError(DiscoveryError):
    """A plug-in could not be loaded, and something of it was asked for (or THUNDERSTONE_STRICT is set)."""


class ApiVersionError(DiscoveryError):
    """A plug-in was written for another contract than this host's.

    Args:
        reason: What does not fit.
        hint: What to do about it.
    """

    def __init__(self, reason: str, hint: str) -> None:
        self.reason, self.hint = reason, hint
        super().__init__(f"{sentence(reason)} HINT: {hint}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reason, self.hint)


class HookError(DiscoveryError):
    """A hook implementation is misspelt or takes arguments its specification does not have."""
