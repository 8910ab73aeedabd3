"""Loading one plug-in, so that whatever it does wrong stays its own failure."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from thunderstone.discovery.hookspecs import HOOK_NAMES, DiscoveryHooks
from thunderstone.errors import BrokenPluginError, HookError, ThunderstoneError, suggestion
from thunderstone.markers import PROJECT
from thunderstone.specs import MethodSpec, StrategySpec

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

HEAVY_MODULES = ("torch", "lightning", "pytorch_lightning")
_PREFIX = "thunderstone_"


@dataclass(frozen=True)
class PluginRecord:
    """What became of one entry point of the group ``thunderstone``.

    Attributes:
        name: The entry point's name, e.g. ``"sharpness"``.
        value: What the entry point names, e.g. ``"thunderstone_sharpness.plugin"``.
        distribution: The distribution it came with, e.g. ``"thunderstone-sharpness"``.
        version: That distribution's version.
        state: ``"ok"``, ``"failed"`` or ``"disabled"``.
        reason: Why it failed or is disabled, in one line; empty when ok.
        traceback: The formatted traceback of a failure; empty otherwise.
        methods: What it declared. A failed plug-in may have declared some before it failed: those names are known to
            be its, and cannot be used.
        strategies: Like `methods`.
        heavy: Modules its import pulled in that a light plug-in module leaves alone (torch, Lightning).
    """

    name: str
    value: str
    distribution: str
    version: str
    state: Literal["ok", "failed", "disabled"]
    reason: str = ""
    traceback: str = ""
    methods: tuple[MethodSpec, ...] = ()
    strategies: tuple[StrategySpec, ...] = ()
    heavy: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How messages name it: ``plug-in 'sharpness' (thunderstone-sharpness 0.1.0)``."""
        return f"plug-in {self.name!r} ({self.distribution} {self.version})".replace(" )", ")")

    def failure(self) -> BrokenPluginError:
        """The error to raise when something of this failed or disabled plug-in is asked for."""
        if self.state == "disabled":
            return BrokenPluginError(f"{self.label} is disabled: {self.reason}.")
        return BrokenPluginError(
            f"{self.label} could not be loaded: {self.reason}. HINT: `thunderstone doctor --verbose` shows the "
            f"traceback; fix or uninstall {self.distribution}, or set THUNDERSTONE_DISABLE={self.name}"
        )


def load_plugin(entry_point: EntryPoint, distribution: str, version: str) -> PluginRecord:
    """Import a plug-in's module, check its hooks, call them, and say what became of it. Never raises for its faults."""
    found: dict[str, tuple[Any, ...]] = {"methods": (), "strategies": ()}
    before = {module for module in HEAVY_MODULES if module in sys.modules}
    reason = details = ""
    try:
        plugin = entry_point.load()
        manager = _registered(entry_point.name, plugin)
        found["methods"] = _declared(manager, "thunderstone_methods", MethodSpec)
        found["strategies"] = _declared(manager, "thunderstone_strategies", StrategySpec)
    except (Exception, SystemExit) as error:  # a plug-in that calls sys.exit at import is as broken as one that raises
        reason = _in_one_line(error)
        details = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return PluginRecord(
        entry_point.name,
        entry_point.value,
        distribution,
        version,
        state="failed" if reason else "ok",
        reason=reason,
        traceback=details,
        heavy=tuple(module for module in HEAVY_MODULES if module in sys.modules and module not in before),
        **found,
    )


def _in_one_line(error: BaseException) -> str:
    """``ImportError: No module named 'x'``; our own errors speak for themselves and need no class name."""
    text = " ".join(str(error).split())
    if isinstance(error, (pluggy.PluginValidationError, ThunderstoneError)):
        return text.rstrip(".")
    name = type(error).__name__
    return (f"{name}: {text}" if text else name).rstrip(".")


def _registered(name: str, plugin: Any) -> pluggy.PluginManager:
    """A manager of the plug-in's own, with its hooks checked and registered.

    One manager a plug-in, because a manager shared by all would stop at the first hook that raises.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(DiscoveryHooks)
    _check_names(manager, plugin)
    manager.register(plugin, name=name)
    manager.check_pending()
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


def _declared(manager: pluggy.PluginManager, hook: str, spec_type: type) -> tuple[Any, ...]:
    """Call one hook and check what it returned: a list (or tuple) of specs of the right type, each name once."""
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
