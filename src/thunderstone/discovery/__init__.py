"""Finding methods and strategies by name, without importing torch or Lightning."""

from thunderstone.discovery.hookspecs import GROUP, HOOK_NAMES, DiscoveryHooks
from thunderstone.discovery.lookup import check_arguments, class_of, create, method_class, methods, strategies, strategy
from thunderstone.discovery.plugin_registry import (
    Conflict,
    Registry,
    load_registry,
    plugins_tried_first,
    refresh,
    registry,
)
from thunderstone.discovery.plugins import PluginRecord

__all__ = [
    "GROUP",
    "HOOK_NAMES",
    "Conflict",
    "DiscoveryHooks",
    "PluginRecord",
    "Registry",
    "check_arguments",
    "class_of",
    "create",
    "load_registry",
    "method_class",
    "methods",
    "plugins_tried_first",
    "refresh",
    "registry",
    "strategies",
    "strategy",
]
