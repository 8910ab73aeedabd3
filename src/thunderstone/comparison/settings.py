"""What is attached in each of the compared settings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from thunderstone.cli.value_syntax import ValueSyntaxError, split
from thunderstone.cli.with_option import build_together, format_option, parse_option
from thunderstone.errors import RequestError
from thunderstone.tracking.configuration import configuration

PLAIN = "plain"


@dataclass(frozen=True)
class Setting:
    """One way to run the script.

    Attributes:
        label: ``"plain"``, or the methods with their arguments, e.g. ``"sam:rho=0.05+saf"``.
        options: The text of a ``--with`` for every method.
        methods: Every method's arguments by its name, defaults included, in JSON's types.
    """

    label: str
    options: tuple[str, ...]
    methods: dict[str, dict[str, object]]

    @property
    def folder(self) -> str:
        """A folder's name, different for every label."""
        name = re.sub(r"[^\w.+=-]", "_", self.label)
        if name == self.label and name[0].isalnum() and len(name) <= 60:
            return name
        return f"{name[:60]}-{hashlib.sha256(self.label.encode()).hexdigest()[:6]}"


def parse_setting(text: str) -> Setting:
    """Read one ``--setting``: ``plain``, or ``--with`` options joined by ``+``.

    Raises:
        RequestError: The text does not have this form.
        ThunderstoneError: There is no such method, an argument is refused, or the methods cannot be attached together.
    """
    if text.strip() == PLAIN:
        return Setting(PLAIN, (), {})
    try:
        parts = _methods(text)
    except ValueSyntaxError as error:
        raise RequestError(f"--setting {text!r}: {error}") from None
    if PLAIN in parts or not all(parts):
        raise RequestError(
            f"--setting {text!r} is not of the form NAME[:key=value,…]+NAME…. HINT: 'plain' alone attaches nothing"
        )
    requested = [parse_option(part) for part in parts]
    methods = build_together(requested)
    options = tuple(format_option(attached) for attached in requested)
    return Setting("+".join(options), options, configuration(methods))


def _methods(text: str) -> list[str]:
    """The parts of a setting; the plus of ``1e+3`` joins nothing, since a method's name begins with a letter."""
    parts: list[str] = []
    for part in split(text, "+"):
        if parts and part and not (part[0].isalpha() or part[0] == "_"):
            parts[-1] += f"+{part}"
        else:
            parts.append(part)
    return parts


def parse_settings(texts: Sequence[str]) -> list[Setting]:
    """Read every ``--setting``; the first is what the others are compared with.

    Raises:
        RequestError: There are fewer than two, or two are the same.
        ThunderstoneError: Like `parse_setting`.
    """
    if len(texts) < 2:
        raise RequestError(
            "compare: it needs two settings or more. HINT: --setting plain --setting sam:rho=0.05, each attaching "
            "what --with would"
        )
    settings = [parse_setting(text) for text in texts]
    for number, setting in enumerate(settings):
        if setting.label in [earlier.label for earlier in settings[:number]]:
            raise RequestError(f"compare: --setting {texts[number]!r} is there twice. HINT: leave one of them out")
    return settings
