"""Whether a plug-in was written for a contract that this host keeps."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from thunderstone.errors import ApiVersionError
from thunderstone.markers import API_VERSION

CONSTANT = "THUNDERSTONE_API"
"""The name under which a plug-in's light module says which contract it was written for; without it, 1.0."""

_FORM = re.compile(r"(\d+)\.(\d+)\Z", re.ASCII)


def check_api(declared: object, distribution: str, offered: str = API_VERSION) -> None:
    """Raise ApiVersionError unless a plug-in written for the contract `declared` works with the one `offered`.

    Args:
        declared: What stands in the plug-in's ``THUNDERSTONE_API``, e.g. ``"1.0"``.
        distribution: Whose plug-in it is, for the way out.
        offered: The host's own version.
    """
    import thunderstone

    wanted = _FORM.match(declared) if isinstance(declared, str) else None
    if wanted is None:
        raise ApiVersionError(
            f"{CONSTANT} = {declared!r} is no version of the contract, which is a text such as {API_VERSION!r}",
            f"write {CONSTANT} = {API_VERSION!r} in the plug-in's module",
        )
    host = f"thunderstone {thunderstone.__version__} has contract {offered}"
    major, minor = (int(part) for part in offered.split("."))
    if (int(wanted[1]), int(wanted[2])) > (major, minor):
        raise ApiVersionError(
            f"it needs a newer thunderstone: it was written for contract {declared}, and {host}",
            "pip install --upgrade thunderstone",
        )
    if int(wanted[1]) < major:
        raise ApiVersionError(
            f"it needs an older thunderstone: it was written for contract {declared}, and {host}",
            f"pip install --upgrade {distribution}",
        )


def api_of(module: str) -> object:
    """The ``THUNDERSTONE_API`` of a plug-in's module, read from its source where it could not be imported.

    A plug-in that needs a newer host often fails at import, since a name is missing here: what it asks for is then the
    reason, and the failed import is only how it shows.

    Returns:
        The value; ``"1.0"`` where none is given or none can be found.
    """
    loaded = sys.modules.get(module)
    if hasattr(loaded, CONSTANT):
        return getattr(loaded, CONSTANT)
    return "1.0" if loaded is not None else _in_source(module)


def _in_source(module: str) -> object:
    try:
        source = _source(module)
        statements = ast.parse(source).body if source is not None else []
    except (ImportError, OSError, SyntaxError, ValueError):
        return "1.0"  # that the module cannot be read is what its failed import says already
    value: object = "1.0"
    for statement in statements:
        targets: Sequence[Any] = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == CONSTANT for target in targets):
            assigned = getattr(statement, "value", None)
            value = assigned.value if isinstance(assigned, ast.Constant) else "1.0"
    return value


def _source(module: str) -> bytes | None:
    """The source of a module, found without importing it or its packages."""
    package, *rest = module.split(".")
    spec: ModuleSpec | None = find_spec(package)  # of a top-level name: imports nothing
    name = package
    for part in rest:
        name = f"{name}.{part}"
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    if spec is None or spec.origin is None or not isinstance(spec.loader, SourceFileLoader):
        return None
    return Path(spec.origin).read_bytes()
