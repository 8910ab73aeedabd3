"""What a plug-in's hooks declare, and whether they are hooks at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pluggy

from thunderstone.discovery.hookspecs import HOOK_NAMES, DiscoveryHooks
from thunderstone.errors import HookError, suggestion
from thunderstone.markers import PROJECT

_PREFIX = "thunderstone_"


def registered(name: str, plugin: Any) -> pluggy.PluginManager:
    """A manager of the plug-in's own, with its hooks checked and registered.

    One manager a plug-in, because a manager shared by all would stop at the first hook that raises.

    Raises:
        HookError: It has no hook, a misspelt one, or one that is not marked.
        pluggy.PluginValidationError: A hook asks for arguments that its specification does not have.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(DiscoveryHooks)
    _check_names(manager, plugin)
    manager.register(plugin, name=name)
    return manager


def _check_names(manager: pluggy.PluginManager, plugin: Any) -> None:
    implemented = 0
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is None:
            if attribute.startswith(_PREFIX) and callable(getattr(plugin, attribute, None)):
                raise HookError(
                    f"{attribute} looks like a hook but is not marked as one. HINT: put @thunderstone.hookimpl above it"
                )
            continue
        hook = options.get("specname") or attribute
        if hook not in HOOK_NAMES and not options.get("optionalhook"):
            raise HookError(f"{hook!r} is not a hook of thunderstone. {suggestion(hook, HOOK_NAMES)}")
        implemented += 1
    if not implemented:
        raise HookError(
            f"it implements no hook. HINT: mark a function named {' or '.join(HOOK_NAMES)} with @thunderstone.hookimpl"
        )


def declared(manager: pluggy.PluginManager, hook: str, spec_type: type) -> tuple[Any, ...]:
    """Call one hook and check what it returned: a list (or tuple) of specs of the right type, each name once.

    Raises:
        HookError: It returned something else.
    """
    specs: list[Any] = []
    caller = getattr(manager.hook, hook)
    # One plug-in may implement a hook under several names (`specname`), so there may be several results.
    results = caller()
    wrappers = sum(bool(each.wrapper or each.hookwrapper) for each in caller.get_hookimpls())
    if len(results) < len(caller.get_hookimpls()) - wrappers:  # pluggy leaves out a result that is None
        raise HookError(f"{hook} returned None, not a list of {spec_type.__name__}. HINT: is its `return` missing?")
    for returned in results:
        if not isinstance(returned, (list, tuple)):
            raise HookError(f"{hook} returned {type(returned).__name__}, not a list of {spec_type.__name__}")
        for spec in returned:
            if not isinstance(spec, spec_type):
                raise HookError(f"{hook} returned a list with {spec!r}, which is not a {spec_type.__name__}")
        specs.extend(returned)
    identities = [(getattr(spec, "kind", ""), spec.name) for spec in specs]
    for identity in identities:
        if identities.count(identity) > 1:
            raise HookError(f"{hook} declares {':'.join(filter(None, identity))!r} more than once")
    return tuple(specs)


def deprecations(manager: pluggy.PluginManager) -> Iterator[str]:
    """What the registered plug-in uses of the contract that is going to leave it, a line each."""
    for hook in HOOK_NAMES:
        caller = getattr(manager.hook, hook)
        for implementation in caller.get_hookimpls():
            if caller.spec.warn_on_impl:
                yield str(caller.spec.warn_on_impl)
            leaving = caller.spec.warn_on_impl_args or {}
            yield from (str(warning) for name, warning in leaving.items() if name in implementation.argnames)
