"""`thunderstone demo` itself: every run, then the table and the picture."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from thunderstone.cli.factory import VARIABLE
from thunderstone.demo.digits import noisy_digits
from thunderstone.demo.picture import draw
from thunderstone.demo.progress import DemoProgress
from thunderstone.demo.report import markdown, table
from thunderstone.demo.results import Result, summarise, write_csv
from thunderstone.demo.settings import SETTINGS
from thunderstone.demo.training import train
from thunderstone.errors import RequestError

EPOCHS = 40
INTERRUPTED = 130
_QUIET = ("lightning.pytorch", "lightning.fabric", "wandb")


def run_demo(
    output: Path = Path("runs/demo"), seeds: int = 3, epochs: int | None = None, console: Console | None = None
) -> list[Result]:
    """Train the demo's network under every setting and seed, then compare.

    Writes ``demo.png``, ``comparison.md``, ``runs.csv`` and one offline W&B run a setting and seed into `output`.

    Args:
        output: A folder; made if it is not there. Results of an earlier demo in it are overwritten, its W&B runs kept.
        seeds: How many seeds, from 0; each decides the split of the data, the wrong labels and the first weights.
        epochs: Epochs of each run; None means 40.
        console: Where progress and table are shown; the terminal by default.

    Returns:
        One result a run, in the order in which they ran.

    Raises:
        RequestError: The output folder cannot be written to, or a package the demo needs is missing. Nothing has been
            trained then.
        SystemExit: With code 130 after Ctrl-C; runs that were complete have been compared before.
    """
    console = Console() if console is None else console
    epochs = EPOCHS if epochs is None else epochs
    _check(output)
    for setting in SETTINGS:
        setting.callbacks()
    splits = [noisy_digits(seed) for seed in range(seeds)]
    results: list[Result] = []
    interrupted = False
    # The settings take turns, so that whatever else the machine does slows all of them down alike.
    plan = [(setting, seed) for seed in range(seeds) for setting in SETTINGS]
    with DemoProgress(console, len(plan), epochs) as progress, _one_thread(), _quiet():
        try:
            for setting, seed in plan:
                shown = progress.run(setting.label, seed)
                results.append(train(setting, seed, splits[seed], epochs, output, shown.epoch))
                shown.done()
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        console.print(f"Interrupted after {len(results)} of {len(plan)} runs.", style="yellow")
    if results:
        _compare(results, output, console)
    if interrupted:
        raise SystemExit(INTERRUPTED)
    return results


def _check(output: Path) -> None:
    if os.environ.get(VARIABLE):
        raise RequestError(
            f"demo: {VARIABLE} is set, so methods would be attached to the plain runs too. HINT: unset {VARIABLE}"
        )
    trial = output / ".writable"
    try:
        output.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise RequestError(
            f"demo: nothing can be written to the folder {str(output)!r} ({error.strerror}). "
            "HINT: --output FOLDER takes one that can be made or written to"
        ) from error


def _compare(results: Sequence[Result], output: Path, console: Console) -> None:
    summaries = summarise(results)
    console.print(table(summaries))
    (output / "comparison.md").write_text(markdown(summaries), encoding="utf-8")
    write_csv(output / "runs.csv", results)
    draw(results, output / "demo.png")
    console.print(f"Picture:  {output / 'demo.png'}", highlight=False, soft_wrap=True)
    console.print(f"Table:    {output / 'comparison.md'}, single runs in runs.csv", highlight=False, soft_wrap=True)
    console.print(
        f"W&B:      tracked offline; `wandb sync {output / 'wandb'}/offline-run-*` uploads the runs to your account",
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """A network this small is fastest on one thread, and gives the same figures whatever the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of Lightning's and W&B's advice and announcements between the lines of the progress display."""
    levels = {name: logging.getLogger(name).level for name in _QUIET}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers")
            warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec.` is deprecated")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
