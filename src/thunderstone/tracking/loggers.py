"""Lightning's loggers as places for records. W&B has a module of its own, `weights_and_biases.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from thunderstone.tracking.figures import pixels
from thunderstone.tracking.folder import FolderSink, local
from thunderstone.tracking.records import Counted, Record
from thunderstone.tracking.run_record import RunRecord
from thunderstone.tracking.sink import Sink


class LoggerSink(Sink):
    """Any Lightning logger: scalars through its `log_metrics`, the rest as files in its `log_dir`.

    Beside its own files is where users of a logger look for the results of a run, and where their tools pick them up.
    A logger without a local folder has no room for tables, figures and artifacts (`takes_media` is False).

    Args:
        logger: The logger, attached to a Trainer.
    """

    def __init__(self, logger: Logger) -> None:
        self.name = type(logger).__name__
        self.takes_media = getattr(logger, "log_dir", None) is not None
        self.logger = logger
        self._folder = FolderSink(self._locate, self.name, takes_scalars=False)

    def scalars(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        # "epoch" stands beside every value that `self.log` writes, and `save` follows it: a killed run keeps its rows.
        self.logger.log_metrics({**values, "epoch": epoch}, step=step)
        self.logger.save()

    def run(self, record: RunRecord) -> None:
        if self.takes_media:
            self._folder.run(record)

    def configuration(self, config: Mapping[str, Mapping[str, Any]], tags: Sequence[str]) -> None:
        if not self.takes_media:
            self.logger.log_hyperparams({name: dict(arguments) for name, arguments in config.items()})
            return
        # Not `log_hyperparams`: TensorBoard would start a second set of hyperparameters with a metric of -1.
        self._folder.configuration(config, tags)
        self._folder.root()

    def table(self, record: Record) -> None:
        self._folder.table(record)

    def histogram(self, record: Record, counted: Counted) -> None:
        self._folder.histogram(record, counted)

    def figure(self, record: Record, png: bytes) -> None:
        self._folder.figure(record, png)

    def artifact(self, record: Record) -> None:
        self._folder.artifact(record)

    def _locate(self) -> Path:
        # A logger settles on its folder when its experiment is made; CSVLogger warns about a folder with files in it.
        _ = getattr(self.logger, "experiment", None)
        folder = local(str(self.logger.log_dir))
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class TensorBoardSink(LoggerSink):
    """TensorBoard: like any logger, and figures appear among its images, histograms among its histograms."""

    logger: TensorBoardLogger

    def histogram(self, record: Record, counted: Counted) -> None:
        # Not `add_histogram`, which would want all the values once more.
        self.logger.experiment.add_histogram_raw(
            record.key,
            min=counted.smallest,
            max=counted.largest,
            num=int(counted.counts.sum()),
            sum=counted.total,
            sum_squares=counted.squares,
            bucket_limits=counted.edges[1:].tolist(),
            bucket_counts=counted.counts.tolist(),
            global_step=record.step,
        )
        self.logger.experiment.flush()

    def figure(self, record: Record, png: bytes) -> None:
        # `add_figure` would import pyplot, replace the figure's canvas and close it; the picture is the same.
        self.logger.experiment.add_image(record.key, pixels(png), global_step=record.step, dataformats="HWC")
        self.logger.experiment.flush()
