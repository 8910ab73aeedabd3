"""`thunderstone check`: the conformance kit on an installed package."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from thunderstone.discovery import registry, settings
from thunderstone.discovery.hookspecs import GROUP
from thunderstone.discovery.plugins import PluginRecord
from thunderstone.errors import RequestError, UnknownNameError
from thunderstone.specs import MethodSpec


def execute(package: str, methods: Sequence[str], checks: Sequence[str], as_json: bool, badge: Path | None) -> int:
    """Check a package and show what was found. The arguments are the command's.

    Returns:
        0 when every rule is kept or its exception declared, 1 otherwise.

    Raises:
        ThunderstoneError: There is no such package, method or check, or the package has nothing that can be checked.
    """
    plugins = plugins_of(package)
    chosen = _chosen(package, [spec for plugin in plugins for spec in plugin.methods], methods)
    strategies = [] if methods else [spec for plugin in plugins for spec in plugin.strategies]
    if not chosen and not strategies:
        raise RequestError(
            f"check: {plugins[0].label} declares no method and no strategy. HINT: return them from "
            f"thunderstone_methods() in {plugins[0].value.partition(':')[0]}"
        )
    if badge is not None:
        _check_badge(badge, methods, checks)
    # Late: torch is loaded here, and what is wrong with a request is mostly known without.
    from thunderstone.cli.check_report import CheckProgress, show
    from thunderstone.testing.checks import CHECKS
    from thunderstone.testing.package_check import check_package

    for name in checks:
        if name not in CHECKS:
            raise UnknownNameError("check", name, CHECKS)
    with redirect_stdout(sys.stderr), CheckProgress(len(chosen), len(checks) or len(CHECKS)) as progress:
        report = check_package(
            plugins[0].distribution,
            plugins[0].version,
            chosen,
            strategies,
            checks=checks or None,
            begin=progress.begin,
            progress=progress.end,
        )
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        show(report)
    for plugin in plugins:
        if plugin.slows:
            print(f"note  {plugin.label}: {plugin.slows}", file=sys.stderr)
    if badge is not None:
        badge.write_text(json.dumps(report.as_badge()) + "\n", encoding="utf-8")
    return 0 if report.kept else 1


def plugins_of(package: str) -> list[PluginRecord]:
    """The plug-ins of a distribution, or the one plug-in of a name; all loaded.

    Raises:
        UnknownNameError: Nothing of this name is installed; the message has the nearest name.
        RequestError: It is a package that offers no plug-in, or one of its plug-ins cannot be used.
    """
    wanted = settings.normalized(package)
    installed = registry().plugins
    found = [r for r in installed if wanted in (settings.normalized(r.name), settings.normalized(r.distribution))]
    if not found:
        try:
            version = distribution(package).version
        except (PackageNotFoundError, ValueError) as error:
            known = {name for record in installed for name in (record.name, record.distribution)}
            raise UnknownNameError("installed plug-in package", package, known) from error
        module = wanted.replace("-", "_")
        raise RequestError(
            f"check: {package} {version} is installed and offers no plug-in: it has no entry point in the group "
            f'{GROUP!r}. HINT: put [project.entry-points.{GROUP}] with {module} = "{module}.plugin" into its '
            "pyproject.toml and install it again"
        )
    for record in found:
        if record.state != "ok":
            raise RequestError(f"check: the entry point {record.name} = {record.value!r}: {record.failure()}")
    return found


def _chosen(package: str, declared: Sequence[MethodSpec], names: Sequence[str]) -> list[MethodSpec]:
    if not names:
        return list(declared)
    by_name = {spec.name: spec for spec in declared}
    for name in names:
        if name not in by_name:
            raise UnknownNameError(f"method of {package}", name, by_name)
    return [by_name[name] for name in dict.fromkeys(names)]


def _check_badge(badge: Path, methods: Sequence[str], checks: Sequence[str]) -> None:
    if methods or checks:
        given = "--method" if methods else "--checks"
        raise RequestError(f"check: --badge says what holds of the whole package. HINT: leave {given} out")
    if not badge.parent.is_dir() or badge.is_dir():
        reason = "that is a folder" if badge.is_dir() else f"there is no folder {str(badge.parent)!r}"
        raise RequestError(f"check: --badge {str(badge)!r}: {reason}. HINT: name a file in a folder that exists")
