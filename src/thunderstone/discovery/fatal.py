"""Plug-ins that would end or block the very process they are loaded into, found in a child process first.

No `try` helps against a crash in compiled code, or against a call that never comes back to Python. The command line
therefore has a copy of itself load everything first, which costs a few milliseconds, since plug-in modules are light.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from thunderstone.discovery import settings
from thunderstone.discovery.import_limit import wait_longer
from thunderstone.discovery.plugins import PluginRecord, load_plugin

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Found: TypeAlias = "tuple[EntryPoint, PluginRecord]"

FATAL = "THUNDERSTONE_FATAL"
"""JSON list of what was found; set for the processes this one starts (workers of a run, runs of a comparison)."""


def fatal_plugins(found: Sequence[Found], try_first: bool) -> list[PluginRecord]:
    """Those that are not to be imported into this process, each as a failed record.

    Args:
        found: What would be imported.
        try_first: Find out, where that can be; otherwise only what the process that started this one has found.
    """
    known = _known(found)
    if not try_first:
        return known
    from thunderstone.discovery.trial import Death, can_try, in_a_child

    if not can_try():
        return known
    fatal = list(known)
    unknown = [each for each in found if not any(_same(record, each[1]) for record in known)]
    tasks = [partial(_loads, point, record) for point, record in unknown]
    for (_, record), outcome in zip(unknown, in_a_child(tasks, settings.import_timeout()), strict=True):
        if isinstance(outcome, Death):
            hint = wait_longer(record.name, settings.import_timeout() or 0) if outcome.slow else ""
            fatal.append(record.failed(f"its import {outcome.how}", hint, outcome.where))
    if len(fatal) > len(known):
        os.environ[FATAL] = json.dumps([[each.name, each.distribution, each.reason, each.hint] for each in fatal])
    return fatal


def _loads(point: EntryPoint, record: PluginRecord) -> str:
    return load_plugin(record, point, limited=False).state


def _known(found: Sequence[Found]) -> list[PluginRecord]:
    """What a process that started this one has found."""
    try:
        told = [
            (str(name), str(owner), str(why), str(hint)) for name, owner, why, hint in json.loads(os.environ[FATAL])
        ]
    except (KeyError, ValueError, TypeError):
        return []
    return [
        record.failed(why, hint)
        for name, owner, why, hint in told
        for _, record in found
        if (record.name, record.distribution) == (name, owner)
    ]


def _same(first: PluginRecord, second: PluginRecord) -> bool:
    return (first.name, first.distribution) == (second.name, second.distribution)
