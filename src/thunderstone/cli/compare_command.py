"""`thunderstone compare`: from the command line to a comparison."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from thunderstone.cli import factory
from thunderstone.cli.launch import check_script
from thunderstone.errors import RequestError

VALUED_OPTIONS = ("--metric", "--setting", "--seeds", "--mode", "--output", "--jobs", "--launcher")


def execute(
    settings: Sequence[str],
    seeds: int,
    metric: str,
    mode: str | None,
    output: Path | None,
    jobs: int | None,
    launcher: str,
    module: str | None,
    arguments: Sequence[str],
) -> int:
    """Check what was asked for, run it, and return the exit code. The arguments are the command's.

    Raises:
        ThunderstoneError: The request cannot be done as it was written.
    """
    if mode not in (None, "max", "min"):
        raise RequestError(f"compare: --mode {mode!r} is neither max nor min")
    if module is None:
        if not arguments:
            raise RequestError("compare: there is no script. HINT: thunderstone compare --setting … SCRIPT ARGS")
        check_script(arguments[0])
    for variable in (factory.VARIABLE, factory.RUN):
        if os.environ.get(variable):
            raise RequestError(f"compare: {variable} is set, and would reach every run. HINT: unset {variable}")
    # Late: torch is loaded here, to read the methods' signatures, and a missing script is known without.
    from thunderstone.comparison.compare import compare
    from thunderstone.comparison.direction import direction
    from thunderstone.comparison.launchers import launcher as launcher_of
    from thunderstone.comparison.request import Request
    from thunderstone.comparison.settings import parse_settings

    started_by = launcher_of(launcher)
    name = module or Path(arguments[0]).resolve().stem
    known = mode or direction(metric)
    request = Request(
        settings=parse_settings(settings),
        seeds=range(seeds),
        metric=metric,
        mode=known or "max",
        module=module,
        arguments=list(arguments),
        output=output or Path("runs") / f"compare-{name}",
        guessed=known is None,
    )
    return compare(request, started_by, jobs)
