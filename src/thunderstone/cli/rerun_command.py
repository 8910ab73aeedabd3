"""`thunderstone rerun`: the command of a recorded run once more, and whether it ends where the run ended."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from thunderstone.cli import factory
from thunderstone.errors import RequestError

SAME, DIFFERENT = 0, 1
_MOST_NAMED = 8


def execute(run: Path, output: Path | None) -> int:
    """Repeat a run and compare its metrics, bit by bit.

    Args:
        run: Its folder, or the `run.json` itself.
        output: A new folder for what the repeated run writes.

    Returns:
        0 when every metric of the record is the same, 1 when one is not or the run fails.

    Raises:
        RequestError: There is no record, or it cannot be repeated.
    """
    from thunderstone.tracking import provenance
    from thunderstone.tracking.run_record import NAME, read_record

    path = run / NAME if run.is_dir() else run
    if not path.exists():
        raise RequestError(f"rerun: there is no {NAME} at {str(run)!r}. {_instead(run)}")
    record = read_record(path)
    _check(path, record)
    folder = _new_folder(output or path.parent / "rerun")
    for change in _changes(record, provenance.versions(), provenance.git_state(Path(record["directory"]))):
        print(f"Since then: {change}")
    if (record.get("seed") or {}).get("lightning") is None:
        print("The run was not seeded through Lightning: another result does not mean that anything has changed.")
    environment = {**_environment(record), **factory.run_variables(folder)}
    command = _command(record, folder)
    try:
        ended = subprocess.run(command, cwd=record["directory"], env=environment, check=False)
    except OSError as error:
        raise RequestError(f"rerun: {command[0]!r} cannot be started: {error.strerror}") from error
    if ended.returncode != 0:
        print(f"The repeated run failed with exit code {ended.returncode}.")
        return DIFFERENT
    return _compare(record["metrics"], folder)


def _instead(folder: Path) -> str:
    """What could have been meant: the runs in a folder of several, e.g. in that of a comparison."""
    from thunderstone.report.folders import run_folders
    from thunderstone.tracking.run_record import NAME

    found = [str(path) for path in run_folders(folder) if (path / NAME).is_file()]
    if not found:
        return "HINT: give the folder of a tracked run"
    shown = "\n".join(f"    thunderstone rerun {shlex.quote(path)}" for path in found[:_MOST_NAMED])
    more = f"\n    … and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return f"It holds {len(found)} run{'s' if len(found) > 1 else ''}. HINT: repeat one of them:\n{shown}{more}"


def _check(path: Path, record: Mapping[str, Any]) -> None:
    if record["status"] == "unreadable":
        raise RequestError(f"rerun: {record['reason']}")
    if record["status"] != "finished" or not record.get("metrics"):
        why = f"the run is {record['status']}" if record["status"] != "finished" else "the run logged nothing"
        raise RequestError(f"rerun: {path} has no metrics to compare with: {why}")
    if not record.get("command"):
        raise RequestError(f"rerun: {path} has no command")
    words = record["command"][1:]
    typed = all(word.startswith("-") for word in words) or words[0] == "-"
    # Either would wait for ever, for somebody to type or for a notebook to connect.
    if typed or any("kernel_launcher" in word for word in words):
        raise RequestError(
            f"rerun: {path} is of a notebook, or of what was typed or piped into Python "
            f"({shlex.join(record['command'])}): no command repeats it. HINT: make a script of it"
        )
    if not Path(record.get("directory", "")).is_dir():
        raise RequestError(f"rerun: the run was started in {record.get('directory')!r}, which is not there any more")


def _command(record: Mapping[str, Any], folder: Path) -> list[str]:
    """The command line; what `{folder}` stood for in it is now the new folder, so that nothing is overwritten."""
    own = record.get("folder")
    return [word.replace(own, str(folder)) if own else word for word in record["command"]]


def _environment(record: Mapping[str, Any]) -> dict[str, str]:
    """This process's variables, with as many threads as the run had: sums over other parts end in other bits."""
    from thunderstone.tracking.provenance import THREADS

    if "threads" not in record:  # a record of before they were written down
        return dict(os.environ)
    return {**{name: value for name, value in os.environ.items() if name not in THREADS}, **record["threads"]}


def _new_folder(wanted: Path) -> Path:
    from thunderstone.tracking.numbered import claimed

    wanted = wanted.absolute()
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        return claimed(wanted.parent, wanted.name)
    except OSError as error:
        raise RequestError(
            f"rerun: the folder {str(wanted)!r} cannot be made ({error.strerror}). HINT: --output FOLDER"
        ) from error


def _changes(record: Mapping[str, Any], versions: Mapping[str, str], git: Mapping[str, Any] | None) -> Iterator[str]:
    """What is not as it was, in words."""
    for name, then in (record.get("versions") or {}).items():
        now = versions.get(name)
        if now != then:
            yield f"{name} was {then}, and is {now or 'not installed'}"
    then_git = record.get("git") or {}
    if git is not None and then_git and git["commit"] != then_git.get("commit"):
        yield f"the commit was {then_git.get('commit')}, and is {git['commit']}"
    if then_git.get("changed_files"):
        yield f"{then_git['changed_files']} files had changes that were not committed; what they were is not recorded"


def _compare(recorded: Mapping[str, Any], folder: Path) -> int:
    before = {name: float(value) for name, value in recorded.items()}
    try:
        outcome = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        print("The repeated run has built no Trainer that could be watched.")
        return DIFFERENT
    # The record may be of one fit of several; what the whole script ended with comes first.
    candidates = [{name: float(value) for name, value in each.items()} for each in _ends(outcome)]
    differing = min((_differences(before, after) for after in candidates), key=len)
    for name, after in differing.items():
        print(f"  {name}: {before[name]!r} before, {'not logged' if after is None else repr(after)} now")
    same = len(before) - len(differing)
    print(f"{same} of {len(before)} metrics are identical. The repeated run is in {folder}")
    return DIFFERENT if differing else SAME


def _ends(outcome: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [outcome.get("metrics", {}), *outcome.get("fits", [])]


def _differences(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float | None]:
    return {name: after.get(name) for name, value in before.items() if not _same(value, after.get(name))}


def _same(one: float, other: float | None) -> bool:
    return other is not None and (one == other or (math.isnan(one) and math.isnan(other)))
