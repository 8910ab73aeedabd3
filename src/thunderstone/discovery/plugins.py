"""Loading one plug-in, so that whatever it does wrong stays its own failure."""

from __future__ import annotations

import sys
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from thunderstone.discovery import settings
from thunderstone.discovery.api_version import api_of, check_api
from thunderstone.discovery.declarations import declared, deprecations, registered
from thunderstone.discovery.import_limit import ImportTimeout, wait_longer, within_limit
from thunderstone.errors import ApiVersionError, BrokenPluginError, HookError, ThunderstoneError, sentence
from thunderstone.specs import MethodSpec, StrategySpec

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

HEAVY_MODULES = ("torch", "lightning", "pytorch_lightning")


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
        hint: The way out of a failure, in one line; empty otherwise.
        traceback: The formatted traceback of a failure; empty otherwise.
        methods: What it declared. A failed plug-in may have declared some before it failed: those names are known to
            be its, and cannot be used.
        strategies: Like `methods`.
        heavy: Modules its import pulled in that a light plug-in module leaves alone (torch, Lightning).
        deprecated: What it uses of the contract that is going to leave it, a line each.
    """

    name: str
    value: str
    distribution: str
    version: str
    state: Literal["ok", "failed", "disabled"] = "ok"
    reason: str = ""
    hint: str = ""
    traceback: str = ""
    methods: tuple[MethodSpec, ...] = ()
    strategies: tuple[StrategySpec, ...] = ()
    heavy: tuple[str, ...] = ()
    deprecated: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How messages name it: ``plug-in 'sharpness' (thunderstone-sharpness 0.1.0)``."""
        return f"plug-in {self.name!r} ({self.distribution} {self.version})".replace(" )", ")")

    @property
    def explained(self) -> str:
        """Why it is not there and what to do about it, in one line."""
        return f"{sentence(self.reason)} HINT: {self.hint}" if self.hint else self.reason

    @property
    def slows(self) -> str:
        """What its import costs everybody, in one line; empty where its module is light."""
        if not self.heavy:
            return ""
        return f"{self.value} imports {', '.join(self.heavy)}, which makes `thunderstone list` slow"

    def failed(self, reason: str, hint: str = "", traceback: str = "", **found: Any) -> PluginRecord:
        """This plug-in, failed. Without a `hint` it can only be repaired or left out."""
        hint = hint or f"fix or uninstall {self.distribution}"
        if settings.DISABLE not in hint:
            hint += f", or set {settings.DISABLE}={self.name}"
        return replace(self, state="failed", reason=reason, hint=hint, traceback=traceback, **found)

    def failure(self) -> BrokenPluginError:
        """The error to raise when something of this failed or disabled plug-in is asked for."""
        if self.state == "disabled":
            return BrokenPluginError(f"{self.label} is disabled: {self.reason}.")
        more = "; `thunderstone doctor --verbose` shows the traceback" if self.traceback else ""
        return BrokenPluginError(f"{self.label} could not be loaded: {self.explained}{more}")


def load_plugin(record: PluginRecord, entry_point: EntryPoint, *, limited: bool = True) -> PluginRecord:
    """Import a plug-in's module, check its hooks, call them, and say what became of it. Never raises for its faults.

    Args:
        record: Who it is.
        entry_point: Where it is.
        limited: Whether it is interrupted when it takes too long; see `within_limit`.
    """
    found: dict[str, Any] = {}
    before = {module for module in HEAVY_MODULES if module in sys.modules}
    failure: BaseException | None = None

    def load() -> None:
        manager = registered(entry_point.name, _imported(entry_point))
        found["deprecated"] = tuple(deprecations(manager))
        found["methods"] = declared(manager, "thunderstone_methods", MethodSpec)
        found["strategies"] = declared(manager, "thunderstone_strategies", StrategySpec)

    try:
        # What it prints is not to stand in the middle of `thunderstone list --json`.
        with redirect_stdout(sys.stderr):
            within_limit(load, record.name, record.label) if limited else load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # one that calls sys.exit, or panics in Rust, is as broken as one that raises
        failure = error
    failure = _refusal(entry_point, record, failure) or failure
    found["heavy"] = tuple(module for module in HEAVY_MODULES if module in sys.modules and module not in before)
    if failure is None:
        return replace(record, **found)
    details = "".join(traceback.format_exception(type(failure), failure, failure.__traceback__))
    return record.failed(*_explanation(failure, entry_point, record), details, **found)


def _imported(entry_point: EntryPoint) -> Any:
    if not _module(entry_point):
        raise HookError(
            f"its entry point is {entry_point.name} = {entry_point.value!r}. HINT: it must look like "
            "'package.plugin' or 'package.plugin:object'"
        )
    return entry_point.load()


def _module(entry_point: EntryPoint) -> str:
    match = entry_point.pattern.match(entry_point.value)
    return match["module"] if match else ""


def _refusal(entry_point: EntryPoint, record: PluginRecord, failure: BaseException | None) -> ApiVersionError | None:
    """Why a plug-in for another contract is refused; whatever else failed in it is but a consequence."""
    try:
        check_api(api_of(_module(entry_point)), record.distribution)
    except ApiVersionError as error:
        error.__cause__ = failure
        return error
    return None


def _explanation(failure: BaseException, entry_point: EntryPoint, record: PluginRecord) -> tuple[str, str]:
    """Reason and way out, a line each: ``("ImportError: No module named 'x'", "pip install x")``."""
    if isinstance(failure, ImportTimeout):
        seconds = settings.import_timeout() or settings.DEFAULT_IMPORT_TIMEOUT
        return f"its import took longer than {seconds:g} s", wait_longer(record.name, seconds)
    text = " ".join(str(failure).split())
    if not isinstance(failure, (pluggy.PluginValidationError, ThunderstoneError)):
        # Our own errors speak for themselves.
        name = type(failure).__name__
        text = f"{name}: {text}" if text else name
    from thunderstone.discovery.missing_modules import what_to_install

    reason, _, hint = text.partition(" HINT: ")
    return reason.rstrip("."), hint or what_to_install(failure, _module(entry_point), record.distribution)
