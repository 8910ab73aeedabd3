"""Every installed plug-in, what it declares, and look-up by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NoReturn, TypeVar

from thunderstone.discovery import settings
from thunderstone.discovery.plugins import PluginRecord, load_plugin
from thunderstone.errors import BrokenPluginError, NameConflictError, UnknownNameError, nearest
from thunderstone.specs import MethodSpec, StrategySpec

Spec = TypeVar("Spec", MethodSpec, StrategySpec)


@dataclass(frozen=True)
class Conflict:
    """A name that several plug-ins claim, so that none of them has it.

    Attributes:
        what: ``"method"``, or the kind and the word ``strategy``, e.g. ``"pruning.score strategy"``.
        name: The name.
        claims: The plug-ins and what each points to, in the order in which they were loaded.
    """

    what: str
    name: str
    claims: tuple[tuple[PluginRecord, str], ...]

    def error(self) -> NameConflictError:
        """The error to raise when the name is asked for; it names every distribution and target."""
        claimed = " and ".join(
            f"{record.distribution} {record.version} (plug-in {record.name!r}, {target!r})"
            for record, target in self.claims
        )
        disable = " or ".join(f"THUNDERSTONE_DISABLE={record.name}" for record, _ in self.claims)
        return NameConflictError(
            f"The {self.what} name {self.name!r} is claimed by {claimed}. "
            f"HINT: uninstall all but one of them, or set {disable}"
        )


class Registry:
    """The plug-ins of this process.

    Args:
        plugins: What became of each entry point, in the order of loading.

    Attributes:
        plugins: Like the argument.
        methods: Every usable method by name; a name that is in conflict is not among them.
        strategies: Every usable strategy, kind → name → declaration; without names in conflict.
        conflicts: Names that more than one plug-in claims.
    """

    def __init__(self, plugins: Sequence[PluginRecord]) -> None:
        self.plugins = tuple(plugins)
        loaded = [record for record in self.plugins if record.state == "ok"]
        self.conflicts: list[Conflict] = []
        self.methods = self._by_name("method", [(record, spec) for record in loaded for spec in record.methods])
        claimed: dict[str, list[tuple[PluginRecord, StrategySpec]]] = {}
        for record in loaded:
            for spec in record.strategies:
                claimed.setdefault(spec.kind, []).append((record, spec))
        self.strategies = {kind: self._by_name(f"{kind} strategy", claimed[kind]) for kind in sorted(claimed)}

    def _by_name(self, what: str, claims: Iterable[tuple[PluginRecord, Spec]]) -> dict[str, Spec]:
        owners: dict[str, list[tuple[PluginRecord, Spec]]] = {}
        for record, spec in claims:
            owners.setdefault(spec.name, []).append((record, spec))
        for name, owned in sorted(owners.items()):
            if len(owned) > 1:
                claimed = tuple((record, spec.target) for record, spec in owned)
                self.conflicts.append(Conflict(what, name, claimed))
        return {name: owned[0][1] for name, owned in sorted(owners.items()) if len(owned) == 1}

    def method(self, name: str) -> MethodSpec:
        """The declaration of a method.

        Raises:
            NameConflictError: Several plug-ins claim the name.
            BrokenPluginError: The plug-in that declares it failed.
            UnknownNameError: No plug-in declares it; the message has the nearest name and the plug-ins that failed.
        """
        if name in self.methods:
            return self.methods[name]
        self._refuse("method", name, self.methods, [(r, r.methods) for r in self.plugins])

    def strategy(self, kind: str, name: str) -> StrategySpec:
        """The declaration of a strategy. Raises what `method` raises; an unknown kind is an UnknownNameError too."""
        of_kind = self.strategies.get(kind, {})
        if name in of_kind:
            return of_kind[name]
        known = [(r, tuple(s for s in r.strategies if s.kind == kind)) for r in self.plugins]
        if not of_kind and not any(specs for _, specs in known):
            raise UnknownNameError("kind of strategy", kind, self.strategies, self._failures_hint())
        self._refuse(f"{kind} strategy", name, of_kind, known)

    def _refuse(
        self,
        what: str,
        name: str,
        known: Iterable[str],
        declared: Iterable[tuple[PluginRecord, Sequence[MethodSpec | StrategySpec]]],
    ) -> NoReturn:
        for conflict in self.conflicts:
            if (conflict.what, conflict.name) == (what, name):
                raise conflict.error()
        for record, specs in declared:
            if record.state == "failed" and any(spec.name == name for spec in specs):
                raise record.failure()
        for record in self.plugins:  # a method often has the name of its package
            if record.state != "ok" and record.name == name:
                raise record.failure()
        raise UnknownNameError(what, name, known, self._failures_hint())

    def _failures_hint(self) -> str:
        """What else might declare the name: plug-ins that failed, with the reason, and disabled ones."""
        parts = [f"{record.label} could not be loaded: {record.explained}." for record in self.failed]
        parts += [f"{record.label} is disabled: {record.reason}." for record in self.disabled]
        return f"It may belong to a plug-in that is not there: {' '.join(parts)}" if parts else ""

    @property
    def failed(self) -> list[PluginRecord]:
        """The plug-ins that could not be loaded."""
        return [record for record in self.plugins if record.state == "failed"]

    @property
    def disabled(self) -> list[PluginRecord]:
        """The plug-ins that ``THUNDERSTONE_DISABLE`` names."""
        return [record for record in self.plugins if record.state == "disabled"]

    def unknown_disabled_names(self) -> dict[str, str | None]:
        """Names in ``THUNDERSTONE_DISABLE`` that match no plug-in, each with the nearest name that would."""
        known = {name for record in self.plugins for name in (record.name, record.distribution)}
        normal = {settings.normalized(name) for name in known}
        return {
            name: nearest(name, known) for name in settings.disabled_names() if settings.normalized(name) not in normal
        }

    def owner(self, spec: MethodSpec | StrategySpec) -> PluginRecord:
        """The plug-in that declares a spec of this registry. Raises LookupError for a spec from elsewhere."""
        for record in self.plugins:
            if any(spec is declared for declared in (*record.methods, *record.strategies)):
                return record
        raise LookupError(f"no plug-in of this registry declares {spec!r}")

    def raise_failures(self) -> None:
        """Raise for the first failed plug-in, else for the first name conflict, if there is any: strict mode."""
        for record in self.failed:
            raise BrokenPluginError(f"{record.failure()} ({settings.STRICT} is set, so any failure is fatal)")
        for conflict in self.conflicts:
            raise NameConflictError(f"{conflict.error()} ({settings.STRICT} is set, so any conflict is fatal)")


def load_registry() -> Registry:
    """Load every plug-in now, each on its own, sorted by name. Raises nothing for what plug-ins do wrong."""
    # 30 ms of imports that `import thunderstone` does without.
    from thunderstone.discovery.entry_points import installed_plugins
    from thunderstone.discovery.fatal import fatal_plugins

    found, damaged = installed_plugins()
    records = [_disabled(record) or record for record in damaged]
    enabled = []
    for point, record in sorted(found, key=lambda each: _place(each[1])):
        disabled = _disabled(record)
        if disabled is None:
            enabled.append((point, record))
        else:
            records.append(disabled)
    fatal = {_place(record): record for record in fatal_plugins(enabled, _try_first)}
    records += [fatal.get(_place(record)) or load_plugin(record, point) for point, record in enabled]
    return Registry(sorted(records, key=_place))


def _place(record: PluginRecord) -> tuple[str, str]:
    return record.name, record.distribution


def _disabled(record: PluginRecord) -> PluginRecord | None:
    """This plug-in as a disabled one, if ``THUNDERSTONE_DISABLE`` names it or its distribution."""
    own = {settings.normalized(record.name), settings.normalized(record.distribution)}
    for name in settings.disabled_names():
        if settings.normalized(name) in own:
            return replace(record, state="disabled", reason=f"{settings.DISABLE} names {name!r}", hint="")
    return None


_registry: Registry | None = None
_try_first = False


@contextmanager
def plugins_tried_first() -> Iterator[None]:
    """Inside, plug-ins are loaded in a child process before they are loaded here; see `fatal_plugins`."""
    global _try_first
    outer, _try_first = _try_first, True
    try:
        yield
    finally:
        _try_first = outer


def registry() -> Registry:
    """The plug-ins of this process, loaded at the first call.

    Raises:
        BrokenPluginError: ``THUNDERSTONE_STRICT`` is set and a plug-in failed.
        NameConflictError: ``THUNDERSTONE_STRICT`` is set and two plug-ins claim one name.
    """
    global _registry
    if _registry is None:
        _registry = load_registry()
    if settings.strict():
        _registry.raise_failures()
    return _registry


def refresh() -> None:
    """Forget what was found, so that the next look-up reads entry points and environment variables again."""
    global _registry
    _registry = None
