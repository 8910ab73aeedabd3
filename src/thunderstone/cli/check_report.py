"""What `thunderstone check` shows: progress while it runs, then a table of methods and rules with reasons beneath."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from thunderstone.specs import MethodSpec
from thunderstone.testing.outcome import RULES, CheckRecord, Status
from thunderstone.testing.package_check import PackageReport

_SHOWN: dict[Status, tuple[str, str, str]] = {
    "passed": ("✓", "passed", "green"),
    "expected-failure": ("e", "expected failure", "yellow"),
    "failed": ("✗", "failed", "bold red"),
    "skipped": ("–", "skipped", "dim"),
}


class CheckProgress:
    """A context manager within which methods show that their checks go on; on standard error.

    Args:
        methods: How many methods there are.
        checks: How many checks each goes through.
    """

    def __init__(self, methods: int, checks: int) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
            # Methods may print, and what they print is not a terminal's business here.
            redirect_stdout=False,
        )
        self._checks = checks
        self._all = self._progress.add_task("checks", total=methods * checks)
        self._method: MethodSpec | None = None
        self._records: list[CheckRecord] = []
        self._began = time.monotonic()

    def __enter__(self) -> CheckProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._say()
        self._progress.stop()

    def begin(self, spec: MethodSpec) -> None:
        """The checks of a method begin."""
        self._say()
        self._method, self._records, self._began = spec, [], time.monotonic()
        self._progress.update(self._all, description=spec.name)

    def end(self, record: CheckRecord) -> None:
        """A check has ended."""
        self._records.append(record)
        self._progress.advance(self._all)
        self._progress.update(self._all, description=f"{record.method}: {record.check}")

    def _say(self) -> None:
        """A line for the method that is done; also where there is no terminal."""
        if self._method is None:
            return
        # One that could not be checked has left its share undone.
        self._progress.advance(self._all, self._checks - len(self._records))
        failed = sum(record.status == "failed" for record in self._records)
        result = f"{failed} failed" if failed else "all well" if self._records else "cannot be checked"
        seconds = time.monotonic() - self._began
        said = f"{self._method.name}: {len(self._records)} checks in {seconds:.0f} s, {result}"
        self._console.print(Text(said), soft_wrap=True)
        self._method = None


def show(report: PackageReport) -> None:
    """Print the report as a table of methods and rules, with reasons beneath."""
    console = Console(highlight=False)
    console.print(Text(f"{report.package} {report.version}", style="bold"))
    if report.methods:
        console.print(_table(report))
        console.print(Text("Rules: " + " · ".join(f"{number} {words}" for number, words in RULES.items())))
        legend = " · ".join(f"{sign} {words}" for sign, words, _ in _SHOWN.values())
        console.print(Text(f"{legend} · blank not looked at\n"))
    for line in _reasons(report):
        console.print(line, soft_wrap=True)
    if report.strategies:
        usable = sum(not strategy.broken for strategy in report.strategies)
        console.print(Text(f"{usable} of {len(report.strategies)} strategies can be imported and called"))
    verdict, style = ("kept", "bold green") if report.kept else ("broken", "bold red")
    console.print(Text.assemble((verdict, style), f": {report.summary()}"))


def _table(report: PackageReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("Method", no_wrap=True, style="bold")
    for number in RULES:
        table.add_column(str(number), justify="center", no_wrap=True)
    for method in report.methods:
        rules = method.rules()
        cells = [Text(*_SHOWN[rules[number]][::2]) if number in rules else Text("") for number in RULES]
        if method.broken:
            cells[0] = Text("✗", style="bold red")
        table.add_row(method.spec.name, *cells)
    return table


def _reasons(report: PackageReport) -> Iterator[Text]:
    """Why something failed, was expected to, or was left out; failures first."""
    for method in report.methods:
        if method.broken:
            yield Text.assemble(("cannot be checked", "bold red"), f"  {method.spec.name}: {method.broken}")
    for strategy in report.strategies:
        if strategy.broken:
            name = f"{strategy.spec.kind}:{strategy.spec.name}"
            yield Text.assemble(("failed", "bold red"), f"  strategy {name}: {strategy.broken}")
    records = [record for method in report.methods for record in method.records]
    for status in ("failed", "expected-failure", "skipped"):
        _, words, style = _SHOWN[status]
        for record in records:
            if record.status == status:
                said = f"  {record.method}, rule {record.rule} ({record.check}): {record.reason}"
                yield Text.assemble((words, style), said)
