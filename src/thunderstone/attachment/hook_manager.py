"""The pluggy manager of one fit."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import pluggy

from thunderstone.attachment.hookspecs import AttachmentHooks
from thunderstone.attachment.method import Method
from thunderstone.errors import HookError, suggestion
from thunderstone.markers import PROJECT

_STEP_HOOKS = ("compute_loss", "loss_terms", "plan_update", "transform_gradients", "after_update")


class HookManager(pluggy.PluginManager):
    """Every attached method, and every observer, is a plug-in of it.

    Args:
        methods: The methods, in the order in which they are to be called.

    Raises:
        HookError: A method's hook is misspelt, or asks for arguments the hook does not have.
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        super().__init__(PROJECT)
        self.add_hookspecs(AttachmentHooks)
        self._methods = list(methods)
        # pluggy calls the last registered first; users read their list of callbacks from the front.
        for number, method in reversed(list(enumerate(self._methods))):
            self._register(method, f"{type(method).__name__}[{number}]")

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        # Looking for hooks must not evaluate a method's properties: some only have a value during a fit.
        if isinstance(inspect.getattr_static(plugin, name, None), property):
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

    def _register(self, method: Method, name: str) -> None:
        try:
            self.register(method, name)
            self.check_pending()
        except pluggy.PluginValidationError as error:
            known = [hook for hook in vars(AttachmentHooks) if not hook.startswith("_")]
            unknown = [
                attribute
                for attribute in dir(type(method))
                if self.parse_hookimpl_opts(method, attribute) is not None and attribute not in known
            ]
            advice = suggestion(unknown[0], known) if unknown else f"Hooks: {', '.join(known)}."
            who = type(method).__name__
            raise HookError(f"{who} implements a hook that does not fit: {error}. {advice}") from error
