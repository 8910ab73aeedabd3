"""`thunderstone doctor`: is everything this project stands on there, and does every plug-in work?"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, entry_points, requires, version
from typing import Any

from thunderstone.cli import factory
from thunderstone.discovery import Registry, class_of, load_registry, settings
from thunderstone.discovery.trial import Death, can_try, in_a_child
from thunderstone.errors import ThunderstoneError

FACTORY_GROUP = "lightning.pytorch.callbacks_factory"
FACTORY_VALUE = "thunderstone.cli.factory:callbacks"
SHOWN = ("torch", "lightning", "torchmetrics", "pluggy", "wandb")
VARIABLES = (settings.DISABLE, settings.STRICT, settings.IMPORT_TIMEOUT, factory.VARIABLE)


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        state: ``"ok"``, ``"note"`` (works, but worth knowing) or ``"broken"``.
        subject: What was looked at.
        detail: What was found.
        traceback: Of the failure, if it was one.
    """

    state: str
    subject: str
    detail: str = ""
    traceback: str = ""


def examine(verbose: bool = False) -> int:
    """Print the findings; 1 if something is broken, else 0.

    Args:
        verbose: Also print the tracebacks.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    styles = {"ok": "green", "note": "yellow", "broken": "bold red"}
    found = load_registry()  # not `registry()`: in strict mode that raises what is to be shown here
    broken = 0
    for title, findings in (
        ("Versions", _versions(found)),
        ("Environment", _environment(found)),
        ("Plug-ins", _plugins(found)),
        ("Methods and strategies", _targets(found)),
        ("Attaching by `thunderstone run`", _factory()),
    ):
        console.print(f"\n{title}", style="bold")
        for finding in findings:
            broken += finding.state == "broken"
            line = Text.assemble("  ", (f"{finding.state:<7}", styles[finding.state]), finding.subject)
            console.print(line.append(f": {finding.detail}" if finding.detail else ""), soft_wrap=True)
            if verbose and finding.traceback:
                console.print(finding.traceback, markup=False, soft_wrap=True)
    console.print()
    if broken:
        hint = "" if verbose else " `thunderstone doctor --verbose` shows tracebacks."
        console.print(f"{broken} thing{'s' if broken > 1 else ''} broken.{hint}", style="bold red")
        return 1
    console.print("Everything works.", style="bold green")
    return 0


def _versions(found: Registry) -> Iterator[Finding]:
    yield Finding("ok", "python", f"{platform.python_version()} ({sys.executable})")
    yield Finding("ok", "platform", platform.platform())
    plugins = dict.fromkeys(record.distribution for record in found.plugins)
    working = {record.distribution for record in found.plugins if record.state == "ok"}
    for name in dict.fromkeys(["thunderstone", *SHOWN, *plugins]):
        try:
            installed = version(name)
        except PackageNotFoundError:
            yield Finding("broken", name, "not installed")
            continue
        unmet = list(_unmet(name)) if name == "thunderstone" or name in plugins else []
        # Which of its contracts fits was checked when it was loaded; a version of the host says no more than that.
        about_host = [line for of, line in unmet if name in working and of == "thunderstone"]
        broken = [line for _, line in unmet if line not in about_host]
        state = "broken" if broken else "note" if about_host else "ok"
        fits = ["the contract it was written for fits all the same"] if about_host else []
        yield Finding(state, name, "; ".join([installed or "no version", *broken, *about_host, *fits]))


def _unmet(distribution: str) -> Iterator[tuple[str, str]]:
    """Requirements of a distribution that the installed packages do not meet: of which package, and what is wrong."""
    from packaging.requirements import InvalidRequirement, Requirement

    for line in requires(distribution) or []:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            yield "", f"has a requirement that cannot be read, {line!r}: reinstall it, or correct its pyproject.toml"
            continue
        of = settings.normalized(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield of, f"needs {requirement}, which is not installed"
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            yield of, f"needs {requirement}, and {installed} is installed"


def _environment(found: Registry) -> Iterator[Finding]:
    unknown = found.unknown_disabled_names()
    for variable in VARIABLES:
        value = os.environ.get(variable)
        if not value:
            yield Finding("ok", variable, "not set")
            continue
        yield Finding("note", variable, value)
    fault = settings.import_timeout_fault()
    if fault is not None:
        yield Finding("note", settings.IMPORT_TIMEOUT, fault)
    for name, near in unknown.items():
        advice = f" Did you mean {near!r}?" if near else ""
        yield Finding("note", settings.DISABLE, f"{name!r} is no plug-in.{advice}")


def _plugins(found: Registry) -> Iterator[Finding]:
    if not found.plugins:
        yield Finding("broken", "entry points", "there are none, not even the host's: reinstall thunderstone")
    for record in found.plugins:
        if record.state == "failed":
            yield Finding("broken", record.label, record.explained, record.traceback)
        elif record.state == "disabled":
            yield Finding("note", record.label, f"disabled: {record.reason}")
        else:
            declared = f"{len(record.methods)} methods, {len(record.strategies)} strategies"
            yield Finding("ok", record.label, declared)
        if record.slows:
            yield Finding("note", record.label, record.slows)
        for line in record.deprecated:
            yield Finding("note", record.label, line)
    for conflict in found.conflicts:
        yield Finding("broken", f"name {conflict.name!r}", str(conflict.error()))


def _targets(found: Registry) -> Iterator[Finding]:
    """Import everything that is declared, which nothing else does before it is used."""
    loaders: list[tuple[str, Callable[[], object]]] = [
        (f"method {name}", partial(class_of, spec)) for name, spec in found.methods.items()
    ]
    for kind, specs in found.strategies.items():
        loaders += [(f"strategy {kind}:{name}", spec.load) for name, spec in specs.items()]
    working = 0
    for (subject, _), outcome in zip(loaders, _imported([load for _, load in loaders]), strict=True):
        if isinstance(outcome, Death):
            yield Finding("broken", subject, f"its import {outcome.how}", outcome.where)
        elif outcome is not None:
            yield Finding("broken", subject, *outcome)
        else:
            working += 1
    yield Finding("ok", f"{working} of {len(loaders)}", "can be imported")


def _imported(loaders: Sequence[Callable[[], object]]) -> list[Any]:
    """What became of each import: None, its message and traceback, or the `Death` of the process it was tried in."""
    tasks = [partial(_attempt, load) for load in loaders]
    with suppress(Exception):
        importlib.import_module("lightning.pytorch")  # once, and not in every child; `_factory` says if it fails
    if not can_try():
        return [task() for task in tasks]
    seconds = settings.import_timeout()
    # Methods may stand on what takes long to import.
    return in_a_child(tasks, None if seconds is None else 6 * seconds)


def _attempt(load: Callable[[], object]) -> tuple[str, str] | None:
    try:
        load()
    except ThunderstoneError as error:
        return str(error), traceback.format_exc()
    return None


def _factory() -> Iterator[Finding]:
    installed = [point for point in entry_points(group=FACTORY_GROUP) if point.value == FACTORY_VALUE]
    if not installed:
        yield Finding("broken", FACTORY_GROUP, f"no entry point to {FACTORY_VALUE}: reinstall thunderstone")
        return
    if len(installed) > 1:
        yield Finding("broken", FACTORY_GROUP, f"{len(installed)} entry points to {FACTORY_VALUE}: every method twice")
    try:
        callbacks = installed[0].load()()
        importlib.import_module("lightning.pytorch")
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        yield Finding("broken", FACTORY_VALUE, detail, traceback.format_exc())
        return
    attached = ", ".join(map(repr, callbacks)) or f"nothing ({factory.VARIABLE} is not set)"
    yield Finding("ok", FACTORY_VALUE, f"attaches {attached}")
