"""The page itself: what `template.html` is given."""

from __future__ import annotations

import base64
import json
import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from thunderstone.report.charts import HEIGHT, WIDTH, charts, colours_of, extremes
from thunderstone.report.model import Picture, Report, ShownRun, ShownTable

_COLOURS = 8
_FEW = 6  # so many rows below a chart are in nobody's way
# What a file of texts holds is a number where it is written as one: `007`, `1_000` and ` 7` are names.
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|-?(nan|inf)")
_WHOLE = re.compile(r"-?(0|[1-9]\d*)")


def page(report: Report) -> str:
    """A report as one HTML document that refers to nothing outside of itself."""
    environment = Environment(
        loader=PackageLoader("thunderstone.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, number_columns=number_columns, source=source, facts=facts, command=command, extremes=extremes
    )
    colours = colours_of(report.runs)
    groups = [
        (group, colour, [index for index, run in enumerate(report.runs) if run.group == group])
        for group, colour in colours.items()
    ]
    return environment.get_template("template.html").render(
        report=report,
        overview=overview(report.runs),
        charts=charts(report.runs),
        groups=groups,
        palette=_COLOURS,
        few=_FEW,
        width=WIDTH,
        height=HEIGHT,
    )


def overview(runs: list[ShownRun]) -> ShownTable:
    """All runs in one table: how they ended, the last value of every metric, and their time."""
    metrics = sorted({name for run in runs for name in run.metrics})
    timed = any("wall_seconds" in run.facts for run in runs)
    columns = ["run", "status", *metrics, *(["seconds"] if timed else [])]
    rows = [
        [
            run.name,
            run.status,
            *(run.metrics.get(name) for name in metrics),
            *([run.facts.get("wall_seconds")] if timed else []),
        ]
        for run in runs
    ]
    return ShownTable("Runs", columns, rows)


def number(value: Any) -> dict[str, Any]:
    """A table's cell: ``text`` as it is shown, ``exact`` with all digits, and the number it is sorted by, if any."""
    if value is None:
        return {"text": "", "exact": "", "sort": None}
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return {"text": value, "exact": value, "sort": None}
        exact, value = value, float(value)
        if _WHOLE.fullmatch(exact):
            return {"text": exact, "exact": exact, "sort": repr(value)}
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        exact = repr(value)
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
        return {"text": text, "exact": text, "sort": None}
    if not math.isfinite(value):
        return {"text": exact, "exact": exact, "sort": None}
    return {"text": f"{value:.6g}" if abs(value) < 1e15 else exact, "exact": exact, "sort": repr(float(value))}


def number_columns(shown: ShownTable) -> set[int]:
    """The columns that hold numbers, whose heads stand to the right as the numbers do."""
    return {column for row in shown.rows for column, value in enumerate(row) if number(value)["sort"] is not None}


def source(picture: Picture) -> str:
    """A figure as a data URL."""
    return f"data:{picture.type};base64,{base64.b64encode(picture.content).decode()}"


def facts(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as pairs of a dotted name and a text."""
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            pairs += facts(value, f"{key}.") if value else [(key, "")]
        else:
            pairs.append((key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)))
    return pairs


def command(run: ShownRun | Report) -> str:
    """What to type to repeat a run: the directory, then the command line, quoted for a shell."""
    line = shlex.join(run.command)
    return f"cd {shlex.quote(run.directory)}\n{line}" if run.directory else line
