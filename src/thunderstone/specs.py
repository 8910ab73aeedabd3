"""What a plug-in declares about itself. Light on purpose: nothing here imports torch or Lightning."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from thunderstone.errors import ArgumentError, BrokenPluginError, sentence

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_KIND = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*\Z")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")


def load_target(owner: str, target: str) -> Any:
    """Import ``"package.module:attribute"`` and return the attribute.

    Args:
        owner: Who points there, for messages.
        target: ``"package.module:attribute"``; the attribute may have dots.

    Raises:
        BrokenPluginError: The import failed; the message names `owner` and the cause.
    """
    module_name, _, attribute = target.partition(":")
    try:
        value: Any = import_module(module_name)
        for part in attribute.split("."):
            value = getattr(value, part)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # of sys.exit, pytest.skip or a panic in Rust, too
        # Only now: a message is worth some milliseconds, every import is not.
        from thunderstone.discovery.missing_modules import what_to_install_for

        hint = what_to_install_for(error, module_name) or "`thunderstone doctor` shows versions and failures"
        raise BrokenPluginError(
            f"{owner} points to {target!r}, which cannot be imported: {type(error).__name__}: "
            f"{sentence(error)} HINT: {hint}"
        ) from error
    return value


def _check(owner: str, argument: str, value: object, pattern: re.Pattern[str], form: str) -> None:
    if not isinstance(value, str) or not pattern.match(value):
        raise ArgumentError(owner, argument, value, f"it must look like {form}", "correct the plug-in's declaration")


def _check_summary(owner: str, summary: object) -> None:
    if not isinstance(summary, str) or not summary.strip() or "\n" in summary:
        hint = "say in one line what it does"
        raise ArgumentError(owner, "summary", summary, "it must be one line of text", hint)


def _check_reference(owner: str, reference: object) -> None:
    if reference is not None and not isinstance(reference, Reference):
        hint = 'write Reference("Title", "Authors", 2021, "https://...")'
        raise ArgumentError(owner, "reference", reference, "it must be a thunderstone.Reference or None", hint)


@dataclass(frozen=True)
class Reference:
    """The publication a method or strategy comes from.

    Attributes:
        title: As it was published.
        authors: Family names, separated by commas.
        year: Of the version that is followed.
        url: Where it is read.
    """

    title: str
    authors: str
    year: int
    url: str

    def __post_init__(self) -> None:
        for argument, kind in (("title", str), ("authors", str), ("year", int), ("url", str)):
            value = getattr(self, argument)
            if not isinstance(value, kind):
                hint = 'write Reference("Title", "Foret, Kleiner", 2021, "https://...")'
                raise ArgumentError("Reference", argument, value, f"it must be of type {kind.__name__}", hint)


@dataclass(frozen=True)
class MethodSpec:
    """A method as its plug-in declares it.

    Attributes:
        name: What users type, e.g. ``"sam"``: lower case letters, digits and underscores.
        target: ``"package.module:Class"``, imported only when the method is used.
        family: The family it belongs to, e.g. ``"sharpness"``.
        summary: One line.
        reference: Where it was published, if it was.
        conformance: ``"package.module:attribute"``, a `thunderstone.testing.Subject` or a callable without
            arguments that returns one: what `thunderstone check` and the method's tests run the rules on.
            Imported by them alone. None: the kit's own settings.
    """

    name: str
    target: str
    family: str
    summary: str
    reference: Reference | None = None
    conformance: str | None = None

    def __post_init__(self) -> None:
        _check("MethodSpec", "name", self.name, _NAME, "'sam' (lower case letters, digits, underscores)")
        _check("MethodSpec", "target", self.target, _TARGET, "'package.module:Class'")
        _check("MethodSpec", "family", self.family, _NAME, "'sharpness' (lower case letters, digits, underscores)")
        _check_summary("MethodSpec", self.summary)
        _check_reference("MethodSpec", self.reference)
        if self.conformance is not None:
            _check("MethodSpec", "conformance", self.conformance, _TARGET, "'package.conformance:SUBJECT'")

    def load(self) -> Any:
        """The method's class. Raises BrokenPluginError when its module cannot be imported."""
        return load_target(f"method {self.name!r}", self.target)

    def load_conformance(self) -> Any:
        """What `conformance` names, or None. Raises BrokenPluginError when its module cannot be imported."""
        if self.conformance is None:
            return None
        return load_target(f"the conformance subject of method {self.name!r}", self.conformance)


@dataclass(frozen=True)
class StrategySpec:
    """A strategy (a pure function or small class a method calls) as its plug-in declares it.

    Attributes:
        kind: Family and role, e.g. ``"sharpness.perturbation"``.
        name: What users type, unique within the kind.
        target: ``"package.module:attribute"``, imported only when the strategy is used.
        summary: One line.
        reference: Where it was published, if it was.
    """

    kind: str
    name: str
    target: str
    summary: str
    reference: Reference | None = None

    def __post_init__(self) -> None:
        _check("StrategySpec", "kind", self.kind, _KIND, "'family.role', e.g. 'sharpness.perturbation'")
        _check("StrategySpec", "name", self.name, _NAME, "'l2' (lower case letters, digits, underscores)")
        _check("StrategySpec", "target", self.target, _TARGET, "'package.module:attribute'")
        _check_summary("StrategySpec", self.summary)
        _check_reference("StrategySpec", self.reference)

    def load(self) -> Any:
        """The strategy itself. Raises BrokenPluginError when its module cannot be imported."""
        return load_target(f"{self.kind} strategy {self.name!r}", self.target)
