"""What the runs of a comparison leave behind: the file `runs.jsonl`, a line a run."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from thunderstone.errors import RequestError
from thunderstone.tracking.configuration import primitive
from thunderstone.tracking.run_record import FINISHED

SCHEMA = 1
LOG = "runs.jsonl"
COMPARED_VERSIONS = ("thunderstone", "torch", "lightning")
_NEEDED = {"setting", "seed", "status", "folder", "exit_code"}


@dataclass(frozen=True)
class Result:
    """One run.

    Attributes:
        setting: The setting's label.
        seed: The run's seed.
        status: ``"finished"``, ``"failed"`` or ``"interrupted"``.
        folder: Where its files are, below the comparison's folder.
        exit_code: Of its process; negative for the signal that ended it, None where the process was lost.
        reason: Why it did not finish: the last line of its standard error, or what its launcher knows.
        metrics: Everything the script logged, the last value of each name.
        fit_seconds: Wall-clock time in `Trainer.fit`; None where no fit ended.
        wall_seconds: Of the whole process; None where it is not known.
        processor_seconds: Of the whole process; None where it is not known.
        passes: Backward passes through the loss, a method's own included; None where no fit ended.
        steps: Optimizer steps.
        seeds_overridden: Seeds that the script passed to `seed_everything` and did not get.
        versions: Of thunderstone, torch and lightning.
        command: The command line.
    """

    setting: str
    seed: int
    status: str
    folder: str
    exit_code: int | None
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    fit_seconds: float | None = None
    wall_seconds: float | None = None
    processor_seconds: float | None = None
    passes: int | None = None
    steps: int | None = None
    seeds_overridden: Sequence[int] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] = ()

    @property
    def key(self) -> tuple[str, int]:
        """Setting and seed."""
        return self.setting, self.seed

    @property
    def finished(self) -> bool:
        return self.status == FINISHED


_FORM = TypeAdapter(Result)


def append(path: Path, result: Result) -> None:
    """Add a line, in one write, and see it to the disk: what is there survives whatever happens next."""
    line = json.dumps({"schema": SCHEMA, **primitive(asdict(result))}, ensure_ascii=False, allow_nan=False)
    with path.open("a+b") as file:
        # The last line may be half of one, after a crash; it must not swallow this one.
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Result]:
    """The runs of a `runs.jsonl`, the last line of each; none when there is no such file. Half a line is left out.

    Raises:
        RequestError: A line was written by another version of Thunderstone, or cannot be understood.
    """
    if not path.exists():
        return []
    found: dict[tuple[str, int], Result] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a killed process wrote half of it: that run is not finished, and will be repeated
        if not isinstance(entry, dict) or entry.get("schema") != SCHEMA or not entry.keys() >= _NEEDED:
            raise RequestError(
                f"{path}: a line was written by another version of Thunderstone (this one reads schema {SCHEMA}). "
                "HINT: use that version, or --output another folder"
            )
        try:
            result = _FORM.validate_python(entry)  # its "nan" and "inf", texts in JSON, become numbers
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            raise RequestError(
                f"{path}: line {number} is not of a run: {'.'.join(map(str, wrong['loc']))} is {wrong['input']!r:.60} "
                f"({wrong['msg']}). HINT: take the line out, and `thunderstone compare` runs it again"
            ) from error
        found[result.key] = result
    return list(found.values())


def write_csv(path: Path, results: Iterable[Result]) -> None:
    """One row a run: setting, seed, how it ended, cost, and a column for every metric that any run has."""
    results = list(results)
    facts = ["setting", "seed", "status", "fit_seconds", "wall_seconds", "processor_seconds", "passes", "steps"]
    metrics = sorted({name for result in results for name in result.metrics})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*facts, *metrics, "folder"])
        for result in results:
            values: list[Any] = [getattr(result, name) for name in facts]
            writer.writerow([*values, *(result.metrics.get(name) for name in metrics), result.folder])
