"""Arguments that may be given by name, so that they fit into a YAML file or a command line."""

from __future__ import annotations

from typing import Any

from thunderstone import ArgumentError, BrokenPluginError
from thunderstone.specs import load_target


def load_dotted(method: str, argument: str, value: str) -> Any:
    """What ``"package.module:name"`` stands for.

    Raises:
        ArgumentError: It cannot be imported.
    """
    hint = "write it as package.module:name, of a module that can be imported where training runs"
    if ":" not in value:
        raise ArgumentError(method, argument, value, "it names nothing", hint)
    try:
        return load_target(f"{method}({argument}={value!r})", value)
    except BrokenPluginError as error:
        reason = f"it cannot be imported ({error.__cause__})"
        raise ArgumentError(method, argument, value, reason, hint) from error
