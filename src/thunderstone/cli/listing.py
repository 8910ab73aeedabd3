"""`thunderstone list`: what is installed, as tables for people and as JSON for programs."""

from __future__ import annotations

import json
import re
from typing import Any

from thunderstone.discovery import Registry, registry
from thunderstone.specs import MethodSpec, Reference, StrategySpec

SCHEMA = 1
"""Version of the JSON document; it goes up only when a key is removed or changes its meaning."""

_WIDE = 110
"""Columns from which on the tables also show paper and package; in fewer they would break every summary up."""


def as_json() -> dict[str, Any]:
    """The registry as one JSON document.

    Keys:
        ``schema``: `SCHEMA`.
        ``thunderstone``: The host's version.
        ``api``: The version of the contract it has.
        ``methods``: A list of ``name``, ``family``, ``target``, ``summary``, ``reference`` (``title``, ``authors``,
            ``year``, ``url``, or null), ``plugin``, ``distribution``, ``version``.
        ``strategies``: The same with ``kind`` for ``family``.
        ``plugins``: A list of ``name``, ``value``, ``distribution``, ``version``, ``state`` (``"ok"``, ``"failed"``,
            ``"disabled"``), ``reason`` (null when ok), ``hint`` (the way out; null unless failed).
        ``conflicts``: Names nobody has because several claim them: ``what``, ``name``, ``claims`` (a list of
            ``plugin``, ``distribution``, ``version``, ``target``).
    """
    import thunderstone

    found = registry()
    return {
        "schema": SCHEMA,
        "thunderstone": thunderstone.__version__,
        "api": thunderstone.API_VERSION,
        "methods": [
            {"name": spec.name, "family": spec.family, **_common(found, spec)} for spec in found.methods.values()
        ],
        "strategies": [
            {"name": spec.name, "kind": spec.kind, **_common(found, spec)}
            for specs in found.strategies.values()
            for spec in specs.values()
        ],
        "plugins": [
            {
                "name": record.name,
                "value": record.value,
                "distribution": record.distribution,
                "version": record.version,
                "state": record.state,
                "reason": record.reason or None,
                "hint": record.hint or None,
            }
            for record in found.plugins
        ],
        "conflicts": [
            {
                "what": conflict.what,
                "name": conflict.name,
                "claims": [
                    {
                        "plugin": record.name,
                        "distribution": record.distribution,
                        "version": record.version,
                        "target": target,
                    }
                    for record, target in conflict.claims
                ],
            }
            for conflict in found.conflicts
        ],
    }


def _common(found: Registry, spec: MethodSpec | StrategySpec) -> dict[str, Any]:
    owner = found.owner(spec)
    reference = spec.reference
    return {
        "target": spec.target,
        "summary": spec.summary,
        "reference": None
        if reference is None
        else {"title": reference.title, "authors": reference.authors, "year": reference.year, "url": reference.url},
        "plugin": owner.name,
        "distribution": owner.distribution,
        "version": owner.version,
    }


def show_json() -> None:
    """Print `as_json`."""
    print(json.dumps(as_json(), indent=2))


def show_tables() -> None:
    """Print the methods by family, the strategies by kind, and the plug-ins that are not there with the reason."""
    from rich.console import Console
    from rich.text import Text

    found = registry()
    console = Console(highlight=False)
    if not found.methods:
        console.print("No method is installed. A family: pip install thunderstone-sharpness")
    else:
        console.print(_table(found, "Method", _by_family(found.methods), console.width))
    if any(found.strategies.values()):
        kinds = {kind: list(named.values()) for kind, named in found.strategies.items()}
        console.print(_table(found, "Strategy", kinds, console.width))
    for record in found.failed:
        console.print(Text.assemble(("failed", "bold red"), f"  {record.label}: {record.explained}"), soft_wrap=True)
    for conflict in found.conflicts:
        console.print(Text.assemble(("conflict", "bold red"), f"  {conflict.error()}"), soft_wrap=True)
    for record in found.disabled:
        console.print(Text.assemble(("disabled", "yellow"), f"  {record.label}: {record.reason}"), soft_wrap=True)
    for name, near in found.unknown_disabled_names().items():
        advice = f" Did you mean {near!r}?" if near else ""
        text = f"  THUNDERSTONE_DISABLE names {name!r}, which is no plug-in.{advice}"
        console.print(Text.assemble(("unknown", "yellow"), text), soft_wrap=True)


def _by_family(specs: dict[str, MethodSpec]) -> dict[str, list[MethodSpec]]:
    families: dict[str, list[MethodSpec]] = {}
    for spec in sorted(specs.values(), key=lambda spec: (spec.family, spec.name)):
        families.setdefault(spec.family, []).append(spec)
    return families


def _table(found: Registry, what: str, groups: dict[str, Any], width: int) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    wide = width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("Family" if what == "Method" else "Kind", no_wrap=True, style="dim")
    table.add_column(what, no_wrap=True, style="bold")
    table.add_column("What it does", ratio=1)
    if wide:
        table.add_column("From", no_wrap=True)
        table.add_column("Package", no_wrap=True)
    for group, specs in groups.items():
        for position, spec in enumerate(specs):
            cells = [group if position == 0 else "", spec.name, spec.summary]
            if wide:
                owner = found.owner(spec)
                cells += [citation(spec.reference), f"{owner.distribution} {owner.version}"]
            table.add_row(*map(Text, cells), end_section=position == len(specs) - 1)
    return table


def citation(reference: Reference | None) -> str:
    """``Foret et al. 2021`` for a table's cell; empty without a reference."""
    if reference is None:
        return ""
    listed = re.sub(r"\bet al\.?", "", reference.authors)
    names = [name.strip() for name in re.split(r",|;|&| and ", listed) if name.strip()]
    first = names[0].split()[-1] if names else reference.title
    others = " et al." if len(names) > 1 or listed != reference.authors else ""
    return f"{first}{others} {reference.year}"
