"""The commands and their options. Each imports what it needs when it is called: `list` must not wait for torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from thunderstone.errors import RequestError

app = typer.Typer(
    name="thunderstone",
    help="Training methods from research papers, as plug-ins for any PyTorch Lightning module.",
    epilog="Exit codes: 0 done, 1 a run failed, 2 the request was wrong.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        import thunderstone

        print(f"thunderstone {thunderstone.__version__}")
        raise typer.Exit


@app.callback()
def thunderstone(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Training methods from research papers, as plug-ins for any PyTorch Lightning module."""


@app.command("list")
def list_(
    json: Annotated[bool, typer.Option("--json", help="Print JSON (schema 1) instead of tables.")] = False,
) -> None:
    """Show every installed method and strategy, and the plug-ins that are not there."""
    from thunderstone.cli import listing

    listing.show_json() if json else listing.show_tables()


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A method (sam), or a strategy (sharpness.perturbation:l2).")],
) -> None:
    """Explain a method or strategy: what it does, its arguments, its paper, what it refuses, how to attach it."""
    from thunderstone.cli.info import show

    show(name)


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    context: typer.Context,
    with_: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads the annotation at run time, also on Python 3.10
        typer.Option("--with", "-w", metavar="NAME[:key=value,...]", help="A method to attach; may be repeated."),
    ] = None,
    module: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("-m", metavar="MODULE", help="Run a module, as `python -m` does."),
    ] = None,
    seed: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, max=2**32 - 1, help="Seed the run, also where the script calls seed_everything itself."),
    ] = None,
    arguments: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="SCRIPT ARGS...", help="The script (not with -m) and its own arguments.", show_default=False
        ),
    ] = None,
) -> None:
    """Run a script that uses Lightning, unchanged, with methods attached to every Trainer it builds.

    Arguments and exit code pass through. Values are parsed by the method's signature: sam:rho=0.1,adaptive=true;
    lists in brackets, texts with commas in quotes. With --with, torch is imported before the script starts, so set
    variables that torch reads at import (OMP_NUM_THREADS) in the shell.
    """
    from thunderstone.cli.run_command import RunRequest

    context.obj.append(RunRequest(with_ or [], module, arguments or [], seed))


@app.command(context_settings={"allow_interspersed_args": False})
def compare(
    metric: Annotated[str, typer.Option(help="What to compare: the name of a metric the script logs.")],
    setting: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--setting",
            metavar="NAME[:key=value,...][+NAME...]",
            help="Methods to attach, or plain; the first is the baseline.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 3,
    mode: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="max or min: what is better; by the metric's name if not given.", show_default=False),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The comparison's folder; runs/compare-SCRIPT by default.", show_default=False),
    ] = None,
    jobs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1, help="How many runs at a time; one a GPU, else half the cores, by default.", show_default=False
        ),
    ] = None,
    launcher: Annotated[
        str,
        typer.Option(metavar="NAME[:key=value,...]", help="Where runs are started: local, ray or submitit (SLURM)."),
    ] = "local",
    module: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("-m", metavar="MODULE", help="Run a module, as `python -m` does."),
    ] = None,
    arguments: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="SCRIPT ARGS...", help="The script (not with -m) and its own arguments.", show_default=False
        ),
    ] = None,
) -> None:
    """Run a script under several settings and seeds, unchanged, and compare what it logs.

    Each run is a process of its own. A comparison that is started again goes on where it was stopped. In the script's
    arguments {seed}, {folder} and {setting} stand for the run's own.
    """
    from thunderstone.cli.compare_command import execute

    raise typer.Exit(execute(setting or [], seeds, metric, mode, output, jobs, launcher, module, arguments or []))


@app.command()
def check(
    package: Annotated[str, typer.Argument(help="A distribution (thunderstone-sharpness) or plug-in (sharpness).")],
    method: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A method to check; may be repeated. All by default.", show_default=False),
    ] = None,
    checks: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A check to run; may be repeated. All by default.", show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON (schema 1) instead of a table.")] = False,
    badge: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Write a badge for shields.io: green, yellow or red.", show_default=False),
    ] = None,
) -> None:
    """Hold every method of an installed package to the ten rules; exit code 1 when one is broken.

    A method keeps a rule, has an exception of it declared with a reason, or breaks it. Checks train small modules,
    kill processes and resume them: a quarter of a minute or more for a method.
    """
    from thunderstone.cli.check_command import execute

    raise typer.Exit(execute(package, method or [], checks or [], json, badge))


@app.command()
def rerun(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its run.json.")],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where the new run's files go; rerun in the run's folder by default.", show_default=False),
    ] = None,
) -> None:
    """Repeat a run by its record, and say whether it ends with the same metrics; exit code 1 when it does not."""
    from thunderstone.cli.rerun_command import execute

    raise typer.Exit(execute(run, output))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A runs/ folder, one run, a comparison, or an offline W&B run.")],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="The file; report.html in the folder by default.", show_default=False),
    ] = None,
) -> None:
    """Write one HTML file that shows runs: settings, curves, tables, figures, environment, command lines."""
    from thunderstone.cli.report_command import execute

    execute(folder, output)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where the table, picture and runs are written.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds each setting is trained with.")] = 3,
    epochs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Epochs a run; the demo's own choice by default."),
    ] = None,
) -> None:
    """Train a small model on scikit-learn's digits, plain and with methods attached, and compare."""
    try:
        from thunderstone.demo.main import run_demo
    except ModuleNotFoundError as error:
        raise RequestError(
            f"demo: it needs the module {error.name!r}, which is not installed. HINT: pip install 'thunderstone[demo]' "
            "thunderstone-sharpness"
        ) from error
    run_demo(output=output, seeds=seeds, epochs=epochs)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The method's name: lookahead makes the package thunderstone-lookahead.")],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The new folder; thunderstone-NAME by default.", show_default=False),
    ] = None,
) -> None:
    """Make a plug-in package to begin from: one method that works, its tests, its settings, its CI."""
    from thunderstone.cli.new_command import execute

    execute(name, output)


@app.command()
def doctor(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the tracebacks of failures.")] = False,
) -> None:
    """Show versions, plug-ins, failures and the environment; exit code 1 when something is broken."""
    from thunderstone.cli.doctor import examine

    raise typer.Exit(examine(verbose=verbose))
