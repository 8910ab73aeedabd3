"""A comparison from beginning to end: what is left to run, the runs, then table, figure and files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.measure import Measurement
from rich.text import Text

from thunderstone.comparison import results as log
from thunderstone.comparison import statistics
from thunderstone.comparison.launchers import STDERR, Launcher
from thunderstone.comparison.notes import notes
from thunderstone.comparison.picture import draw
from thunderstone.comparison.progress import ComparisonProgress
from thunderstone.comparison.request import Request
from thunderstone.comparison.results import COMPARED_VERSIONS, Result
from thunderstone.comparison.schedule import Schedule, last_lines, still_running
from thunderstone.comparison.table import markdown, table
from thunderstone.errors import RequestError, nearest
from thunderstone.tracking import provenance
from thunderstone.tracking.run_record import write_json

DONE, A_RUN_FAILED, INTERRUPTED = 0, 1, 130
DESCRIPTION = "comparison.json"
_SCHEMA = 1
_SHOWN_LINES = 8
_FILES = {"Table": "comparison.md, summary.csv", "Figure": "comparison.png", "Runs": "runs.jsonl, runs.csv"}


def compare(request: Request, launcher: Launcher, jobs: int | None = None, console: Console | None = None) -> int:
    """Run what has not finished yet, then write `runs.csv`, `summary.csv`, `comparison.md` and `comparison.png`.

    Args:
        request: The comparison.
        launcher: Starts its runs.
        jobs: How many at a time; None for what the launcher makes of it.
        console: Where progress and table are shown; the terminal by default.

    Returns:
        0 when every run has finished, 1 when one has failed, 130 after Ctrl-C.

    Raises:
        RequestError: The folder cannot be used, or no run logs the metric.
    """
    console = Console() if console is None else console
    output = request.output
    lock = FileLock(output / ".lock")
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RequestError(
            f"compare: another comparison is running in {str(output)!r}. HINT: wait for it, or --output another folder"
        ) from None
    except OSError as error:
        raise RequestError(
            f"compare: nothing can be written to the folder {str(output)!r} ({error.strerror}). HINT: --output FOLDER "
            "takes one that can be made or written to"
        ) from error
    try:
        return _compare(request, launcher, launcher.jobs(len(request.runs)) if jobs is None else jobs, console)
    finally:
        launcher.close()
        lock.release()


def _compare(request: Request, launcher: Launcher, jobs: int, console: Console) -> int:
    output = request.output
    known = {result.key: result for result in log.read(output / log.LOG)}
    _check_folder(request, list(known.values()))
    _check_metric(request, list(known.values()))  # first: the description is of the table that lies beside it
    write_json(output / DESCRIPTION, _description(request))
    keys = [(setting.label, seed) for setting, seed in request.runs]
    waiting = [run for run in request.runs if not _is_finished(known.get((run[0].label, run[1])))]
    if (done := len(keys) - len(waiting)) > 0:
        console.print(f"{done} of {len(keys)} runs have finished before.", highlight=False)
    interrupted = False
    with ComparisonProgress(console, len(keys), done) as progress:
        schedule = Schedule(request, launcher, jobs)
        running = schedule.results(waiting, progress.begin)
        try:
            for result in running:
                log.append(output / log.LOG, result)
                known[result.key] = result
                progress.end(*result.key, _in_words(result, request.metric))
                _check_metric(request, [result])
        except KeyboardInterrupt:
            interrupted = True
        except OSError as error:
            raise RequestError(
                f"compare: {str(output)!r} cannot be written to any more ({error.strerror}). Runs that have finished "
                "are kept, and the same command goes on with the others"
            ) from error
        finally:
            running.close()
    ended = [known[key] for key in keys if key in known]
    _write(request, ended, console)
    if interrupted:
        finished = sum(result.finished for result in ended)
        console.print(f"Interrupted after {finished} of {len(keys)} runs; the same command goes on.", highlight=False)
        return INTERRUPTED
    failed = [result for result in ended if not result.finished]
    for result in failed:
        _tell_failure(result, output, console)
    return A_RUN_FAILED if failed else DONE


def _is_finished(result: Result | None) -> bool:
    return result is not None and result.finished


def _description(request: Request) -> dict[str, object]:
    return {
        "schema": _SCHEMA,
        "program": request.program(),
        "settings": [setting.label for setting in request.settings],
        "seeds": list(request.seeds),
        "metric": request.metric,
        "mode": request.mode,
        "mode_guessed": request.guessed,
        "command": provenance.command_line(),
        "directory": str(Path.cwd()),
    }


def _check_folder(request: Request, known: Sequence[Result]) -> None:
    """Refuse a folder that holds another comparison's runs: they cannot be compared with these."""
    path = request.output / DESCRIPTION
    way_out = "HINT: --output another folder, or move this one away"
    try:
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if earlier is not None and earlier["schema"] != _SCHEMA:
            raise RequestError(f"compare: {path} was written by another version of Thunderstone. {way_out}")
        program = None if earlier is None else earlier["program"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"compare: {path} cannot be read ({type(error).__name__}: {error}). {way_out}") from error
    own = request.program()
    if known and program is not None and program != own:
        if {**program, "sha256": None} == {**own, "sha256": None}:
            reason = f"of {request.arguments[0]} as it was before it was changed"
        else:
            words = (
                program["arguments"] if program["module"] is None else ["-m", program["module"], *program["arguments"]]
            )
            reason = f"of another command, {' '.join(words)!r}"
        raise RequestError(f"compare: {str(request.output)!r} holds runs {reason}. {way_out}")
    now = provenance.versions()
    for result in known:
        for name in COMPARED_VERSIONS:
            then = result.versions.get(name)
            if result.finished and then is not None and then != now.get(name):
                raise RequestError(
                    f"compare: {str(request.output)!r} holds runs made with {name} {then}, and {now.get(name)} is "
                    f"installed: they cannot be compared. {way_out}"
                )
    alive = still_running(request.output)
    if alive is not None:
        raise RequestError(
            f"compare: a run of an earlier comparison still goes on in {str(alive)!r}. HINT: wait for it, or end its "
            "process, whose number is in its run.json"
        )


def _check_metric(request: Request, results: Sequence[Result]) -> None:
    """Refuse a metric that a finished run does not have, before more time is spent."""
    for result in results:
        if not result.finished or request.metric in result.metrics:
            continue
        names = sorted(result.metrics)
        close = nearest(request.metric, names)
        near = f" Did you mean {close!r}?" if close else ""
        logged = f"It logs: {', '.join(names)}." if names else "It logs nothing that a Trainer knows of."
        raise RequestError(
            f"compare: the script logs no metric {request.metric!r} ({result.setting}, seed {result.seed}).{near} "
            f"{logged} Runs that have finished are kept: the same command with another --metric reads them"
        )


def _write(request: Request, results: Sequence[Result], console: Console) -> None:
    if not results:
        return
    output = request.output
    log.write_csv(output / "runs.csv", results)
    summaries = statistics.summarise(results, [setting.label for setting in request.settings], request.metric)
    statistics.write_csv(output / "summary.csv", summaries)
    said = notes(results, request.metric, request.mode if request.guessed else None)
    (output / "comparison.md").write_text(markdown(summaries, request, said), encoding="utf-8")
    draw(request, results, output / "comparison.png")
    shown = table(summaries, request, said, console.width if console.is_terminal else None)
    # A file or a pipe has no edge; and of a number no digit is left out, however narrow the terminal.
    console.width = max(console.width, Measurement.get(console, console.options.update(width=1000), shown).maximum)
    console.print(shown)
    for label, names in _FILES.items():
        console.print(Text(f"{label + ':':<8} {names} in {output}"), soft_wrap=True)


def _in_words(result: Result, metric: str) -> str:
    if not result.finished:
        return f"failed: {result.reason}"
    value = result.metrics.get(metric)
    return "finished" if value is None else f"{metric} {value:.4g}"


def _tell_failure(result: Result, output: Path, console: Console) -> None:
    stderr = output / result.folder / STDERR
    said = "\n".join(f"    {line}" for line in last_lines(stderr, _SHOWN_LINES))
    code = result.exit_code
    end = f"exit code {code}" if code is not None and code >= 0 else result.reason.partition(";")[0]
    console.print(Text(f"{result.setting}, seed {result.seed} failed ({end}). {stderr}:\n{said}"), soft_wrap=True)
