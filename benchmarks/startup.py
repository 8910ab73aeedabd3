"""How long the command line and the import keep one waiting, each in new processes."""

from __future__ import annotations

import sys

from processes import run, thunderstone_command
from side_by_side import Line, arguments, interleaved, median, paired, report, verdict, with_interval

LIST_LIMIT = 0.5
IMPORT_LIMIT = 0.1
BARE = "python -c pass"


def main() -> None:
    options = arguments(__doc__, rounds=31)
    processor: dict[str, list[float]] = {}

    def measure(name: str, *command: str) -> float:
        wall, used, _ = run(*command)
        processor.setdefault(name, []).append(used)
        return wall

    commands = {
        BARE: (sys.executable, "-c", "pass"),
        "import thunderstone": (sys.executable, "-c", "import thunderstone"),
        "thunderstone list": (thunderstone_command(), "list"),
        "thunderstone list --json": (thunderstone_command(), "list", "--json"),
    }
    wall = interleaved(
        {name: (lambda n=name, c=command: measure(n, *c)) for name, command in commands.items()}, options.rounds
    )
    processor = {name: values[1:] for name, values in processor.items()}  # the round that does not count
    lines = []
    for name in commands:
        used = processor[name]
        beyond = paired(used, processor[BARE], lambda value, base: value - base)
        limit = ""
        if name == "import thunderstone":
            limit = f"beyond: {verdict(beyond, IMPORT_LIMIT)} s"
        elif name == "thunderstone list":
            limit = f"in all: {verdict(paired(used, [1.0] * len(used)), LIST_LIMIT)} s"
        cells = (
            median(used, ".3f", "s"),
            "" if name == BARE else with_interval(beyond, ".3f", " s"),
            limit,
            median(wall[name], ".3f", "s"),
        )
        lines.append(Line(f"`{name}`", cells))
    report(
        "Start-up",
        ("Process", "Processor time", "Beyond the bare interpreter", "Limit", "Wall-clock time"),
        lines,
        f"{options.rounds} interleaved rounds, a new process each time; medians, and 95% bootstrap intervals. "
        "Each is one thread, so that processor time is what one waits on a machine that does nothing else.",
        options.write,
    )


if __name__ == "__main__":
    main()
