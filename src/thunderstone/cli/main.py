"""The entry point of the `thunderstone` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from thunderstone.discovery import plugins_tried_first
from thunderstone.errors import ThunderstoneError, suggestion

if TYPE_CHECKING:
    from thunderstone.cli.run_command import RunRequest

COMMANDS = ("check", "compare", "demo", "doctor", "info", "list", "new", "report", "rerun", "run")
WRONG_REQUEST = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What stands after `thunderstone` on the command line; None reads ``sys.argv``.

    Returns:
        0 done, 1 a run failed (or `doctor` found something broken), 2 the request was wrong. A program started with
        `run` passes its own exit code through, by SystemExit where it raised one.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        return _refuse(f"There is no command {given[0]!r}. {suggestion(given[0], COMMANDS)}")
    try:
        with plugins_tried_first():
            outcome = _parse(given)
            # The program runs here, after the parser is done: typer would turn its exceptions into its own.
            return outcome if isinstance(outcome, int) else outcome.execute()
    except ThunderstoneError as error:
        return _refuse(str(error))


def _parse(given: list[str]) -> int | RunRequest:
    """Do what the command says and return its exit code; for `run`, return what is to be run."""
    from typer.main import get_command

    from thunderstone.cli.app import app
    from thunderstone.cli.compare_command import VALUED_OPTIONS
    from thunderstone.cli.run_command import end_of_options

    if given[:1] == ["run"]:
        given = ["run", *end_of_options(given[1:])]
    elif given[:1] == ["compare"]:
        given = ["compare", *end_of_options(given[1:], VALUED_OPTIONS)]
    requests: list[RunRequest] = []
    try:
        get_command(app)(given, prog_name="thunderstone", obj=requests)
    except SystemExit as end:
        if requests:
            return requests[0]
        return end.code if isinstance(end.code, int) else 0
    return 0


def _refuse(message: str) -> int:
    print(f"thunderstone: {message}", file=sys.stderr)
    return WRONG_REQUEST
