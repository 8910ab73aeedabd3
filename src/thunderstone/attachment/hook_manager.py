"""The pluggy manager of one fit."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pluggy

from thunderstone.attachment.hookspecs import HOOK_NAMES, AttachmentHooks
from thunderstone.attachment.method import Method
from thunderstone.errors import HookError, StepError, suggestion
from thunderstone.markers import PROJECT

if TYPE_CHECKING:
    from thunderstone.tracking.records import Record

_STEP_HOOKS = ("compute_loss", "loss_terms", "plan_update", "transform_gradients", "after_update")


class HookManager(pluggy.PluginManager):
    """Every attached method, and every observer, is a plug-in of it. What a hook raises says whose hook it was.

    Args:
        methods: The methods, in the order in which they are to be called.

    Raises:
        HookError: A method's hook is misspelt, or asks for arguments the hook does not have.
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        super().__init__(PROJECT)
        self.add_hookspecs(AttachmentHooks)
        self.add_hookcall_monitoring(_no_preparation, _name_the_owner)
        self._methods = list(methods)
        self._observers: list[tuple[object, pluggy.HookCaller]] | None = None
        # pluggy calls the last registered first; users read their list of callbacks from the front.
        for number, method in reversed(list(enumerate(self._methods))):
            self._check_marks(method)
            self.register(method, f"{type(method).__name__}[{number}]")

    def register(self, plugin: object, name: str | None = None) -> str | None:
        """Add a method or an observer. Raises HookError when a hook of it is misspelt or asks for other arguments."""
        self._observers = None
        try:
            registered = super().register(plugin, name)
            self.check_pending()
        except pluggy.PluginValidationError as error:
            if self.is_registered(plugin):
                self.unregister(plugin)
            raise HookError(
                f"{called(plugin)} implements a hook that does not fit: {error}. {self._advice(plugin)}"
            ) from error
        return registered

    def unregister(self, plugin: object = None, name: str | None = None) -> Any:
        """Take a method or an observer out."""
        self._observers = None
        return super().unregister(plugin, name)

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        # Of the two hundred attributes of a callback a few are marked. Most of the others are told by a look into the
        # classes, which evaluates no property: some only have a value during a fit.
        found = _in_classes(type(plugin), name)
        if found and not _is_marked(found[0]) and name not in getattr(plugin, "__dict__", ()):
            return None
        return super().parse_hookimpl_opts(plugin, name)

    @property
    def takes_part_in_steps(self) -> bool:
        """Whether some method has a hook that is called within a step."""
        return any(getattr(self.hook, hook).get_hookimpls() for hook in _STEP_HOOKS)

    @property
    def step_users(self) -> str:
        """The names of the methods that have one, for messages."""
        using = [
            type(method).__name__
            for method in self._methods
            if any(caller.name in _STEP_HOOKS for caller in self.get_hookcallers(method) or ())
        ]
        return " and ".join(using)

    def observe(self, record: Record) -> list[tuple[object, Exception]]:
        """Hand a record to every observer, to each by itself; those that failed, each with what it raised."""
        if self._observers is None:
            plugins = self.get_plugins()
            implementing = {id(each.plugin): each.plugin for each in reversed(self.hook.record.get_hookimpls())}
            self._observers = [
                (plugin, self.subset_hook_caller("record", [other for other in plugins if other is not plugin]))
                for plugin in implementing.values()
            ]
        failed: list[tuple[object, Exception]] = []
        for plugin, caller in self._observers:
            try:
                caller(record=record)
            except Exception as error:
                failed.append((plugin, error))
        return failed

    def _check_marks(self, method: Method) -> None:
        """Refuse a method that means to have a hook and does not: pluggy would leave it out without a word."""
        kind = type(method)
        if kind.__hash__ is None:
            raise HookError(
                f"{kind.__name__} cannot be hashed, as it defines equality. HINT: write @dataclass(eq=False), or give "
                "it an __init__"
            )
        for name in dir(kind):
            own, *inherited = _in_classes(kind, name) or [None]
            # `record` is what a method reports with.
            meant = (name in HOOK_NAMES and name != "record") or any(map(_is_marked, inherited))
            if meant and callable(getattr(kind, name, None)) and not _is_marked(own):
                raise HookError(
                    f"{kind.__name__}.{name} looks like a hook but is not marked as one, and would not be called. "
                    "HINT: put @thunderstone.hookimpl above it, also where it overrides a hook of its parent; "
                    f"{name} = None takes a parent's away"
                )

    def _advice(self, plugin: object) -> str:
        hooks = [
            options.get("specname") or name
            for name in dir(plugin)
            if (options := self.parse_hookimpl_opts(plugin, name)) is not None
        ]
        unknown = [hook for hook in hooks if hook not in HOOK_NAMES]
        if unknown:
            return suggestion(unknown[0], HOOK_NAMES)
        taken = {hook: list(inspect.signature(getattr(AttachmentHooks, hook)).parameters)[1:] for hook in hooks}
        each = "; ".join(f"{hook} takes {' and '.join(names)}" for hook, names in taken.items())
        return f"HINT: an argument may be left out, and none added or renamed: {each}"


def called(plugin: object) -> str:
    """How messages name it: a class by its name, a module by its own."""
    return plugin.__name__ if inspect.ismodule(plugin) else type(plugin).__name__


def _in_classes(kind: type, name: str) -> list[object]:
    """What a class and its bases have under a name, the nearest first; nothing is evaluated."""
    return [vars(base)[name] for base in kind.__mro__ if name in vars(base)]


def _is_marked(attribute: object) -> bool:
    return hasattr(getattr(attribute, "__func__", attribute), f"{PROJECT}_impl")


def _no_preparation(hook: str, implementations: Sequence[pluggy.HookImpl], arguments: Mapping[str, object]) -> None:
    """pluggy wants something to call before a hook, too."""


def _name_the_owner(
    outcome: pluggy.Result[Any],
    hook: str,
    implementations: Sequence[pluggy.HookImpl],
    arguments: Mapping[str, object],
) -> None:
    """Note on an error, after a hook was called, in whose implementation it was raised."""
    error = outcome.exception
    if not isinstance(error, Exception):  # Ctrl-C is nobody's
        return
    owner = _raised_in(error.__traceback__, implementations)
    if isinstance(error, StopIteration):
        # Lightning would take it for the end of the epoch and go on as if nothing had happened.
        whose = called(owner.plugin) if owner is not None else "a method"
        raise StepError(
            f"the hook {hook!r} of {whose} raised StopIteration. HINT: an iterator in it has come to its end; give "
            "`next` a default, or begin again"
        ) from error
    # Python 3.10 has no notes, only the traceback.
    if sys.version_info >= (3, 11) and owner is not None:
        module = type(owner.plugin).__module__
        error.add_note(f"This was raised in the hook {hook!r} of {called(owner.plugin)} ({module}).")


def _raised_in(traceback: TracebackType | None, implementations: Sequence[pluggy.HookImpl]) -> pluggy.HookImpl | None:
    """The implementation that the stack of an error goes through first."""
    while traceback is not None:
        frame = traceback.tb_frame
        for each in implementations:
            if getattr(each.function, "__code__", None) is frame.f_code:
                # Two instances of one class share their code.
                first = next(iter(frame.f_code.co_varnames), "")
                if not inspect.ismethod(each.function) or frame.f_locals.get(first) is each.plugin:
                    return each
        traceback = traceback.tb_next
    return None
