"""Weights & Biases as a place for records. `wandb` is imported only when something is written to it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from thunderstone.lightning_private import prefixed
from thunderstone.tracking.configuration import primitive
from thunderstone.tracking.folder import existing
from thunderstone.tracking.records import Artifact, Counted, Record, Table
from thunderstone.tracking.run_record import RunRecord
from thunderstone.tracking.scalars import cell
from thunderstone.tracking.sink import Sink

# What the summary keeps of a metric. Nobody says whether it is to be small or large, so both of its best are there.
SUMMARY = "min,max,last"


class WandbSink(Sink):
    """The run of a WandbLogger, online or offline.

    Everything is logged through the logger, so that its `trainer/global_step` axis and its prefix hold for what methods
    report too. The run is not finished here: its owner may go on with a test or a second fit.

    Args:
        logger: The logger, attached to a Trainer.
    """

    def __init__(self, logger: WandbLogger) -> None:
        self.name = type(logger).__name__
        self.logger = logger
        self._axes: dict[str, str] = {}
        self._defined: set[str] = set()

    def scalars(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        for key in values:
            if key not in self._defined:
                self._define(key)
                self._defined.add(key)
        self._log(values, step, epoch)

    def run(self, record: RunRecord) -> None:
        folder = Path(self.logger.experiment.dir)
        # A disabled run has a folder of its own that W&B deletes.
        if folder.is_dir():
            record.place(folder)

    def configuration(self, config: Mapping[str, Mapping[str, Any]], tags: Sequence[str]) -> None:
        run = self.logger.experiment
        present = dict(run.config)
        for name, arguments in config.items():
            key = name if _replaceable(present, name, arguments) else f"thunderstone.{name}"
            run.config.update({key: dict(arguments)}, allow_val_change=True)
        run.tags = tuple(dict.fromkeys((*(run.tags or ()), *tags)))
        # An axis to choose for any chart, rather than a curve.
        run.define_metric(prefixed(self.logger, "epoch"))

    def axis(self, key: str, of: str) -> None:
        run, named = self.logger.experiment, prefixed(self.logger, key)
        run.define_metric(named)
        run.define_metric(prefixed(self.logger, of), step_metric=named)
        self._axes[of] = key

    def _define(self, key: str) -> None:
        # By name: of two patterns that match, such as Lightning's "*" and "imp/*", W&B takes either, and a summary
        # asked for by a pattern is made of the parts of tables and images too.
        if "*" in key or key in self._axes.values():  # a pattern; an axis
            return
        run = self.logger.experiment
        axis = next((axis for of, axis in self._axes.items() if fnmatchcase(key, of)), None)
        # Lightning's own axes, which have no prefix.
        steps = "global_step" if getattr(run.settings, "sync_tensorboard", False) else "trainer/global_step"
        step_metric = steps if axis is None else prefixed(self.logger, axis)
        run.define_metric(prefixed(self.logger, key), step_metric=step_metric, step_sync=True, summary=SUMMARY)

    def table(self, record: Record) -> None:
        import wandb

        table: Table = record.value
        rows = [[cell(value) for value in row] for row in table.rows]
        # A column may hold a number in one row and a word in the next, as in any CSV file.
        content = wandb.Table(columns=list(table.columns), data=rows, allow_mixed_types=True)
        self._log({record.key: content}, record.step, record.epoch)

    def histogram(self, record: Record, counted: Counted) -> None:
        import wandb

        content = wandb.Histogram(np_histogram=(counted.counts.tolist(), counted.edges.tolist()))
        self._log({record.key: content}, record.step, record.epoch)

    def figure(self, record: Record, png: bytes) -> None:
        import wandb

        # Not the figure itself, with which wandb would go through pyplot, nor its pixels, which it would compress
        # again. It copies the file while it logs.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "figure.png")
            path.write_bytes(png)
            self._log({record.key: wandb.Image(str(path))}, record.step, record.epoch)

    def artifact(self, record: Record) -> None:
        import wandb

        artifact: Artifact = record.value
        source = existing(artifact)
        run = self.logger.experiment
        # Artifact names belong to the whole project; the run's id keeps two runs' tickets from being versions of one
        # thing. Lightning names its checkpoints in the same way.
        name = re.sub(r"[^\w.-]", "-", f"{record.key}-{run.id}")
        metadata = {**primitive(artifact.metadata), "step": record.step, "epoch": record.epoch}
        content = wandb.Artifact(name=name, type=artifact.type, metadata=metadata)
        if source.is_dir():
            content.add_dir(str(source))
        else:
            content.add_file(str(source))
        run.log_artifact(content)

    def _log(self, values: Mapping[str, Any], step: int, epoch: int) -> None:
        self.logger.log_metrics({**values, "epoch": epoch}, step=step)


def _replaceable(present: Mapping[str, Any], key: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a key of the run's configuration may take a method's arguments.

    It may when it is free, or holds some of these arguments: from a sweep, a resumed run, a first fit, or the user's
    own settings. What the user keeps under a key that happens to be a method's name stays as it is.
    """
    if key not in present:
        return True
    return isinstance(present[key], Mapping) and set(present[key]) <= set(arguments)
