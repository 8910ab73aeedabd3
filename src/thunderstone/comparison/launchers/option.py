"""What `--launcher NAME[:key=value,…]` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from thunderstone.cli.value_syntax import ValueSyntaxError, split
from thunderstone.cli.values import ValueParseError, argument_types, parse, type_name
from thunderstone.comparison.launchers.job import Launcher
from thunderstone.errors import RequestError, suggestion

LAUNCHERS: Mapping[str, str] = {
    "local": "thunderstone.comparison.launchers.local:LocalLauncher",
    "ray": "thunderstone.comparison.launchers.ray:RayLauncher",
    "submitit": "thunderstone.comparison.launchers.submitit:SubmititLauncher",
}
"""By name, the class of every launcher. The arguments of its initialiser are the launcher's options."""


def launcher(text: str) -> Launcher:
    """The launcher that an option asks for, e.g. ``local`` or ``submitit:partition=gpu,timeout_min=120``.

    Raises:
        RequestError: There is no such launcher, it has no such option or takes no such value, or what it needs is not
            installed.
    """
    name, colon, rest = text.partition(":")
    name = name.strip()
    if name not in LAUNCHERS:
        raise RequestError(f"compare: there is no launcher {name!r}. {suggestion(name, LAUNCHERS)}")
    module, _, attribute = LAUNCHERS[name].partition(":")
    cls: type = getattr(import_module(module), attribute)
    types = argument_types(cls)
    values: dict[str, Any] = {}
    for part in _parts(text, rest) if colon else []:
        option, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not option:
            raise RequestError(
                f"compare: --launcher {text!r}: {part!r} is not written as key=value. HINT: --launcher {name} alone "
                "takes every default"
            )
        if option not in types:
            known = suggestion(option, types) if types else "It has none."
            raise RequestError(f"compare: --launcher {text!r}: {name} has no option {option!r}. {known}")
        if option in values:
            raise RequestError(f"compare: --launcher {text!r}: {option} is given twice. HINT: leave one of them out")
        try:
            values[option] = parse(value, types[option])
        except ValueParseError as error:
            raise RequestError(
                f"compare: --launcher {text!r}: {option}={value} is not allowed: {error}. HINT: {option} is of type "
                f"{type_name(types[option])}"
            ) from None
    built: Launcher = cls(**values)
    return built


def _parts(text: str, rest: str) -> list[str]:
    try:
        return split(rest, ",")
    except ValueSyntaxError as error:
        raise RequestError(f"compare: --launcher {text!r}: {error}") from None
