"""From the one name a user gives to all names of a package, and why some names will not do."""

from __future__ import annotations

import builtins
import importlib.metadata
import keyword
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from thunderstone.errors import RequestError

PREFIX = "thunderstone-"
LONGEST = 28
"""Characters of a name: with it the longest line of the template has as many as a line may have."""

_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*\Z")
# Names that the template's own modules and imports have; a test compares them with what is rendered.
RESERVED = frozenset(
    (
        *("any", "class_var", "data_loader", "lightning_module", "method", "method_spec", "path", "reference"),
        *("regression", "subject", "tensor", "tensor_dataset", "trainer", "update_step"),
        *("conformance", "plugin"),
    )
)


@dataclass(frozen=True)
class PackageNames:
    """What a package and its method are called.

    Attributes:
        method: What users type, and the module the method is in, e.g. ``"weight_noise"``.
    """

    method: str

    @property
    def distribution(self) -> str:
        """What is installed, e.g. ``"thunderstone-weight-noise"``."""
        return PREFIX + self.method.replace("_", "-")

    @property
    def module(self) -> str:
        """What is imported, e.g. ``"thunderstone_weight_noise"``."""
        return self.distribution.replace("-", "_")

    @property
    def class_name(self) -> str:
        """The method's class, e.g. ``"WeightNoise"``."""
        return "".join(word.capitalize() for word in self.method.split("_"))


def names_for(given: str) -> PackageNames:
    """The names of a new package.

    Args:
        given: The method's name, with hyphens or underscores, with or without ``thunderstone-`` in front.

    Raises:
        RequestError: It is no name, or one that is taken; the message says by what.
    """
    bare = given[len(PREFIX) :] if given.replace("_", "-").startswith(PREFIX) else given
    name = bare.replace("-", "_")
    if not _NAME.match(name):
        raise RequestError(
            f"new: {given!r} cannot be the name of a package: it must be lower case letters, digits and single "
            f"hyphens, and begin with a letter. HINT: {_corrected(bare)}"
        )
    if len(name) > LONGEST:
        raise RequestError(
            f"new: {given!r} is too long for what users type: {len(name)} characters, and at most {LONGEST} are "
            "allowed. HINT: the short name people use for it in speech"
        )
    names = PackageNames(name)
    taken = _what_has(names)
    if taken is not None:
        raise RequestError(f"new: {given!r} cannot be the name of a package: {taken}. HINT: choose another name")
    return names


def _corrected(given: str) -> str:
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", given)
    name = "-".join(word for word in re.split(r"[^a-z0-9]+", apart.lower()) if word)
    names = PackageNames(name.replace("-", "_"))
    if not _NAME.match(names.method) or len(names.method) > LONGEST:
        return "write it as one writes weight-noise"
    taken = _what_has(names)
    return f"thunderstone new {name}" if taken is None else f"choose another name; {name!r} will not do either: {taken}"


def _what_has(names: PackageNames) -> str | None:
    """What already has one of the names, in words that stand after a colon; None when they are free."""
    name = names.method
    if keyword.iskeyword(name):
        return f"{name!r} is a keyword of Python"
    if name in RESERVED:
        return f"the package has something else of the name {name!r}"
    if hasattr(builtins, names.class_name) or hasattr(builtins, name):
        return f"Python has something built in of the name {name!r}"
    if name in sys.stdlib_module_names:
        return f"a module {name}.py would hide Python's own {name!r} from whatever is started beside it"
    for distribution in (names.distribution, name):
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        return f"the distribution {distribution} {version} is installed"
    owners = _owners()
    for module in (names.module, name):
        if module in owners:
            return f"the module {module!r} of the installed distribution {owners[module][0]} has it"
    return _registered(name)


@cache
def _owners() -> Mapping[str, list[str]]:
    # It reads a file of every installed distribution, which takes a second or so.
    return importlib.metadata.packages_distributions()


def _registered(name: str) -> str | None:
    from thunderstone.discovery import registry

    found = registry()
    if name in found.methods:
        owner = found.owner(found.methods[name])
        return f"there is a method of this name, of {owner.distribution} {owner.version}".rstrip()
    for record in found.plugins:
        if record.name == name:
            return f"there is a plug-in of this name, of {record.distribution} {record.version}".rstrip()
    for conflict in found.conflicts:
        if (conflict.what, conflict.name) == ("method", name):
            return "several installed packages claim this name for a method"
    return None
