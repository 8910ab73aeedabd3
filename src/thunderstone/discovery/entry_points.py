"""Which plug-ins the installed distributions name, and which of those distributions cannot even be read."""

from __future__ import annotations

from importlib.metadata import Distribution, EntryPoint, distributions, entry_points

from thunderstone.discovery.hookspecs import GROUP
from thunderstone.discovery.plugins import PluginRecord


def installed_plugins() -> tuple[list[tuple[EntryPoint, PluginRecord]], list[PluginRecord]]:
    """Every entry point of the group with who it is, and a failed record for each distribution that is damaged."""
    damaged: list[PluginRecord] = []
    try:
        points = list(entry_points(group=GROUP))
    except Exception:
        # One file that cannot be read keeps `entry_points` from all the others.
        points, damaged = _one_by_one()
    return [(point, PluginRecord(point.name, point.value, *_origin(point.dist))) for point in points], damaged


def _one_by_one() -> tuple[list[EntryPoint], list[PluginRecord]]:
    points: list[EntryPoint] = []
    damaged: list[PluginRecord] = []
    seen: set[str] = set()
    for distribution in distributions():
        name, version = _origin(distribution)
        if name in seen:
            continue  # a second one further down on sys.path, which is not the one that is imported
        seen.add(name)
        try:
            points += distribution.entry_points.select(group=GROUP)
        except Exception as error:
            reason = f"its entry_points.txt cannot be read: {type(error).__name__}: {error}"
            record = PluginRecord(name, "", name, version)
            damaged.append(record.failed(reason, f"reinstall or uninstall {name}"))
    return points, damaged


def _origin(distribution: Distribution | None) -> tuple[str, str]:
    """Name and version of the distribution an entry point came with."""
    if distribution is None:
        return "an unknown distribution", ""
    return distribution.metadata["Name"] or "an unnamed distribution", distribution.version or ""
