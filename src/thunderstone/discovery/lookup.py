"""The public functions over the registry."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, overload

from thunderstone.discovery.plugin_registry import registry
from thunderstone.errors import ArgumentError, BrokenPluginError, suggestion
from thunderstone.specs import MethodSpec, StrategySpec

if TYPE_CHECKING:
    from thunderstone.attachment.method import Method


def methods() -> dict[str, MethodSpec]:
    """Every usable method by name, sorted.

    Names that two distributions claim are left out; `thunderstone.create` says so when one is asked for. A fresh
    dictionary each time: changing it changes nothing.

    Raises:
        BrokenPluginError: ``THUNDERSTONE_STRICT`` is set and a plug-in failed.
        NameConflictError: ``THUNDERSTONE_STRICT`` is set and two plug-ins claim one name.
    """
    return dict(registry().methods)


@overload
def strategies(kind: None = None) -> dict[str, dict[str, StrategySpec]]: ...


@overload
def strategies(kind: str) -> dict[str, StrategySpec]: ...


def strategies(kind: str | None = None) -> dict[str, StrategySpec] | dict[str, dict[str, StrategySpec]]:
    """Every usable strategy of a kind by name, or of every kind by kind and name when `kind` is None.

    A kind nobody has declared a strategy of is empty, not an error. Raises what `methods` raises.
    """
    found = registry().strategies
    if kind is None:
        return {known: dict(specs) for known, specs in found.items()}
    return dict(found.get(kind, {}))


def strategy(kind: str, name: str) -> Any:
    """The strategy itself (a function or class), imported now.

    Args:
        kind: E.g. ``"sharpness.perturbation"``.
        name: E.g. ``"l2"``.

    Raises:
        UnknownNameError: There is no such kind, or none of that name in it; the message has the nearest name.
        NameConflictError: Two distributions claim it.
        BrokenPluginError: Its plug-in failed, or its module cannot be imported.
    """
    return registry().strategy(kind, name).load()


def class_of(spec: MethodSpec) -> type[Method]:
    """The class a declaration points to, imported now. Raises BrokenPluginError unless it is a Method."""
    target = spec.load()
    from thunderstone.attachment.method import Method

    if not (isinstance(target, type) and issubclass(target, Method)):
        raise BrokenPluginError(
            f"method {spec.name!r} points to {spec.target!r}, which is {target!r} and not a subclass of "
            "thunderstone.Method. HINT: correct the target in the plug-in that declares it"
        )
    return target


def method_class(name: str) -> type[Method]:
    """The class of a method, imported now. Raises what `create` raises before it looks at arguments."""
    return class_of(registry().method(name))


def create(name: str, **arguments: Any) -> Method:
    """Build a method by name.

    Args:
        name: What its plug-in calls it, e.g. ``"sam"``.
        arguments: Passed to its class, after a check against the signature.

    Returns:
        A new instance, ready for ``Trainer(callbacks=[...])``.

    Raises:
        UnknownNameError: No plug-in declares the name; the message has the nearest one and plug-ins that failed.
        NameConflictError: Two distributions claim the name.
        BrokenPluginError: Its plug-in failed, or its module cannot be imported.
        ArgumentError: The class does not take an argument (the message has the nearest one), needs one that is
            missing, or refuses a value.

    Example:
        >>> thunderstone.create("sam", rho=0.1)  # doctest: +SKIP
        SAM(rho=0.1, adaptive=False, ...)
    """
    cls = method_class(name)
    check_arguments(cls, arguments)
    return cls(**arguments)


def check_arguments(cls: type, arguments: dict[str, Any]) -> None:
    """Raise ArgumentError unless `arguments` are keywords `cls` takes and all it requires are there."""
    parameters = inspect.signature(cls).parameters
    for argument, value in arguments.items():
        if argument not in parameters:
            raise ArgumentError(
                cls.__name__, argument, value, "there is no argument of this name", suggestion(argument, parameters)
            )
    for argument, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if required and argument not in arguments:
            raise ArgumentError(
                cls.__name__, argument, None, "it has no default and was not given", f"pass {argument}=…"
            )
