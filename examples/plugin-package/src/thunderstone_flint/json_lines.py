"""What methods report, as lines of JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from thunderstone import ArgumentError, Artifact, Method, Record, Table, hookimpl
from torch import Tensor


class JsonLines(Method):
    """Writes what other methods report to a file, a line of JSON each: to be watched with ``tail -f``.

    A line has ``key`` (``"sam/gradient_norm"``), ``step`` and ``epoch``, and ``value`` for a scalar, ``columns`` and
    ``rows`` for a table, ``path`` and ``type`` for an artifact. Figures and histograms are left out. Scalars of a
    training step follow `Trainer(log_every_n_steps=...)`, and nothing is written under `fast_dev_run` or while
    validation is only tried out. Lines are added to a file that exists. Cost: a scalar that is written is waited for.

    Args:
        path: The file, in a folder that exists.

    Raises:
        ArgumentError: `path` is no text, or its folder does not exist.
    """

    name: ClassVar[str] = "json_lines"
    identified_by: ClassVar[tuple[str, ...]] = ("path",)

    def __init__(self, path: str = "records.jsonl") -> None:
        if not isinstance(path, str) or not path:
            hint = "name a file, such as 'records.jsonl'"
            raise ArgumentError("JsonLines", "path", path, f"it must be a text, not {type(path).__name__}", hint)
        self.path = path

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say before training what could not be written during it."""
        file = Path(self.path)
        if not file.parent.is_dir():
            hint = "make the folder first"
            raise ArgumentError("JsonLines", "path", self.path, f"there is no folder {str(file.parent)!r}", hint)
        if file.is_dir():
            raise ArgumentError("JsonLines", "path", self.path, "it is a folder", "name a file in it")

    # Not called `record`, which is how a method reports something itself.
    @hookimpl(specname="record")
    def write(self, record: Record) -> None:
        """Add a line."""
        trainer: Any = self.attachment.trainer  # sets the two settings below without declaring them
        if trainer.fast_dev_run or trainer.sanity_checking:
            return
        if record.within_step and (record.step + 1) % trainer.log_every_n_steps:
            return
        content = contents(record.value)
        if content is None:
            return
        line = json.dumps({"key": record.key, "step": record.step, "epoch": record.epoch, **content}, default=plain)
        # Opened for each line, so that nothing is open between two of them and a killed run has lost none.
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def contents(value: Any) -> dict[str, Any] | None:
    """What a line says of a record's value; None for what is no text."""
    if isinstance(value, Table):
        return {"columns": list(value.columns), "rows": [[plain(cell) for cell in row] for row in value.rows]}
    if isinstance(value, Artifact):
        return {"path": str(value.path), "type": value.type, **({"metadata": value.metadata} if value.metadata else {})}
    if isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1):
        return {"value": plain(value)}
    return None


def plain(value: Any) -> Any:
    """A value as JSON has it; numbers that JSON has no word for become texts: ``"nan"``, ``"inf"``."""
    if isinstance(value, Tensor):
        value = value.tolist() if value.numel() != 1 else value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (bool, int, float, str, list, type(None))) else str(value)
