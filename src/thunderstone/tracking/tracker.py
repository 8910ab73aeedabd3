"""The observer between what methods report and what the user's loggers can show."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from thunderstone.errors import sentence
from thunderstone.lightning_private import callbacks_of, set_callbacks
from thunderstone.markers import hookimpl
from thunderstone.random_state import RandomState
from thunderstone.tracking.configuration import configuration, names
from thunderstone.tracking.figures import is_figure, render
from thunderstone.tracking.folder import FolderSink, new_run_folder
from thunderstone.tracking.loggers import LoggerSink, TensorBoardSink
from thunderstone.tracking.mlflow_runs import MLFlowSink
from thunderstone.tracking.provenance import hardware
from thunderstone.tracking.records import Artifact, Histogram, Record, Table
from thunderstone.tracking.run_record import FAILED, FINISHED, INTERRUPTED, RunRecord
from thunderstone.tracking.scalars import is_scalar, read, whole
from thunderstone.tracking.sink import Sink, TrackingWarning
from thunderstone.tracking.weights_and_biases import WandbSink

if TYPE_CHECKING:
    from thunderstone.attachment.method import Method

_Result = TypeVar("_Result")


@dataclass
class _Row:
    """Scalars of one moment, by key."""

    step: int
    epoch: int
    records: dict[str, Record] = field(default_factory=dict)


class Tracker:
    """Writes the records of one fit to every logger of its Trainer, or to a folder where there is none.

    Scalars wait until the step is over and go out together, in one `log_metrics` call a step, as Lightning's own do;
    waiting also lets a device run ahead, and lets a step that turns out to be the last be written, as Lightning writes
    it. Tables, histograms, figures and artifacts are written at once: what they were made from may change.

    Nothing that goes wrong here reaches training: each place for records warns once (`TrackingWarning`), and is tried
    again with the next record. Random states are left as they were, whatever a logger draws.

    Silent under `fast_dev_run`, in which Lightning suppresses logging, and during its sanity check.

    Args:
        trainer: The Trainer, on its rank zero.
    """

    def __init__(self, trainer: Trainer) -> None:
        # Any: Lightning's connectors set attributes (`log_every_n_steps`, `fast_dev_run`) its class does not declare.
        self.trainer: Any = trainer
        self._warned: set[str] = set()
        # Of one moment; there is a second row when a key comes again and both values are to be kept.
        self._rows: list[_Row] = []
        self._boundary = _StepBoundary(self)
        self._finished = False
        self._run: RunRecord | None = None
        self._sinks = self._find_sinks()

    def start(self, methods: Sequence[Method]) -> None:
        """Write the run's configuration and tags, and begin to follow the Trainer's steps. Called at fit start."""
        if not self._sinks:
            return
        # First in the list: what happened before a hook is written before other callbacks act on that hook. A list of
        # its own, since Lightning is iterating over the present one.
        set_callbacks(self.trainer, [self._boundary, *self._callbacks()])
        config = self._attempt("the tracker", "the configuration", lambda: configuration(methods))
        self._run = self._attempt("the tracker", "the run's record", lambda: self._record_of_run(config or {}))
        with _random_states_kept():
            for sink in self._sinks:
                if self._run is not None:
                    self._attempt(sink.name, "the run's record", partial(sink.run, self._run))
                if config is not None:
                    self._attempt(sink.name, "the configuration", partial(sink.configuration, config, names(methods)))

    def axis(self, key: str, of: str) -> None:
        """Have the series whose keys match the pattern `of` drawn against the one at `key`, where a logger can."""
        with _random_states_kept():
            for sink in self._sinks:
                self._attempt(sink.name, key, partial(sink.axis, key, of))

    def finish(self) -> None:
        """Write what is waiting and let go of the Trainer. Safe to call after an exception, and more than once."""
        self.flush()
        if not self._finished and self._run is not None:
            self._attempt("the tracker", "the end of the run", partial(self._close, self._run))
            with _random_states_kept():
                for sink in self._sinks:
                    self._attempt(sink.name, "the end of the run", sink.finish)
        self._finished = True
        if self._boundary in callbacks_of(self.trainer):
            set_callbacks(self.trainer, list(self._callbacks()))

    @hookimpl
    def record(self, record: Record) -> None:
        """Take a record: scalars wait for the end of the step, everything else is written now."""
        if not self._sinks or self.trainer.sanity_checking:
            return
        value = record.value
        if is_scalar(value):
            # Asked for first: the rest is seldom.
            try:
                self._keep(record)
            except Exception as error:
                self._warn(record.method, record.key, error)
            if self._finished:
                self.flush()
            return
        with _random_states_kept():
            self._show(record)

    def flush(self) -> None:
        """Write the scalars that are waiting."""
        if self._rows:
            rows, self._rows = self._rows, []
            for row in rows:
                self._write(row)

    # -- the run's record ----------------------------------------------------------------------------------------------

    def _record_of_run(self, config: Mapping[str, Any]) -> RunRecord:
        given = os.environ.get("PL_GLOBAL_SEED", "")
        seed = {"lightning": int(given) if given.isdigit() else None, "torch": torch.initial_seed()}
        device = self.trainer.strategy.root_device
        words = f"{hardware()}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else hardware()
        processes = self.trainer.world_size
        return RunRecord(
            seed=seed,
            methods=dict(config),
            hardware=words if processes == 1 else f"{words}; {processes} processes",
            precision=str(self.trainer.precision),
        )

    def _close(self, run: RunRecord) -> None:
        error = self._boundary.error
        status = FINISHED if error is None else FAILED if isinstance(error, Exception) else INTERRUPTED
        reason = "" if error is None else f"{type(error).__name__}: {error}"
        run.close(
            status,
            reason,
            epochs=self.trainer.current_epoch,
            steps=self.trainer.global_step,
            metrics={key: read(value) for key, value in self.trainer.callback_metrics.items() if is_scalar(value)},
        )

    # -- scalars -------------------------------------------------------------------------------------------------------

    def _keep(self, record: Record) -> None:
        if isinstance(record.value, Tensor):
            whole(record.value)  # raises where it is not to be had
        row = self._rows[-1] if self._rows else None
        if row is not None and (row.step != record.step or row.epoch != record.epoch):
            self.flush()
            row = None
        key = record.key
        earlier = row.records.get(key) if row is not None else None
        # An optimizer that calls its closure several times a step reports several times: the last one counts, as it
        # does for `self.log`. Outside of a step every value is meant to be seen.
        if row is None or (earlier is not None and not (earlier.within_step and record.within_step)):
            row = _Row(record.step, record.epoch)
            self._rows.append(row)
        row.records[key] = record

    def _write(self, row: _Row) -> None:
        # Lightning also writes a step after which training is to stop.
        logged = self._is_logging_step(row.step) or (self.trainer.should_stop and self.trainer.log_every_n_steps > 0)
        due = {key: record.value for key, record in row.records.items() if logged or not record.within_step}
        if not due:
            return
        keys = ", ".join(due)
        values = self._attempt("the tracker", keys, lambda: {key: read(value) for key, value in due.items()})
        if values is None:
            return
        with _random_states_kept():
            for sink in self._sinks:
                if sink.takes_scalars:
                    self._attempt(sink.name, keys, partial(sink.scalars, values, row.step, row.epoch))

    def _is_logging_step(self, step: int) -> bool:
        """Whether Lightning writes what `self.log` got in this step, because its turn has come."""
        every = self.trainer.log_every_n_steps
        return bool(every > 0 and (step + 1) % every == 0)

    # -- everything else -----------------------------------------------------------------------------------------------

    def _show(self, record: Record) -> None:
        value = record.value
        if isinstance(value, Table):
            self._each(record, lambda sink: sink.table(record))
        elif isinstance(value, Histogram):
            # Keeping the values of every step until it is over would cost a copy of them.
            if not record.within_step or self._is_logging_step(record.step):
                counted = self._attempt(record.method, record.key, value.count)
                if counted is not None:
                    self._each(record, lambda sink: sink.histogram(record, counted))
        elif isinstance(value, Artifact):
            self._each(record, lambda sink: sink.artifact(record))
        elif is_figure(value):
            png = self._attempt("matplotlib", record.key, partial(render, value, record.key))
            if png is not None:
                self._each(record, lambda sink: sink.figure(record, png))
        else:
            error = TypeError(
                f"a {type(value).__name__} is none of the things a method can report: a number or a tensor with one "
                "element, a Histogram, a Table, a matplotlib Figure, an Artifact"
            )
            self._warn(record.method, record.key, error)

    # -- places --------------------------------------------------------------------------------------------------------

    def _find_sinks(self) -> list[Sink]:
        trainer = self.trainer
        # Lightning puts a dummy in place of every logger in runs that are not to be tracked.
        if trainer.fast_dev_run or any(isinstance(logger, DummyLogger) for logger in trainer.loggers):
            return []
        sinks = [_logger_sink(logger) for logger in trainer.loggers]
        if not any(sink.takes_media for sink in sinks):
            # What no logger can show is still kept.
            root = trainer.default_root_dir
            sinks.append(FolderSink(lambda: new_run_folder(root), "the runs/ folder", takes_scalars=not sinks))
        return sinks

    def _each(self, record: Record, action: Callable[[Sink], None]) -> None:
        for sink in self._sinks:
            if sink.takes_media:
                self._attempt(sink.name, record.key, partial(action, sink))

    def _callbacks(self) -> Iterable[Callback]:
        return (callback for callback in callbacks_of(self.trainer) if callback is not self._boundary)

    def _attempt(self, who: str, what: str, action: Callable[[], _Result]) -> _Result | None:
        """What `action` returns, or None after a failure."""
        try:
            return action()
        except Exception as error:
            self._warn(who, what, error)
            return None

    def _warn(self, who: str, what: str, error: Exception) -> None:
        if who in self._warned:
            return
        self._warned.add(who)
        rank_zero_warn(
            f"{who} could not write {what}: {type(error).__name__}: {sentence(error)} This record is lost; training "
            "goes on, and later records are tried without a further warning.",
            category=TrackingWarning,
        )


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Random states are as they were afterwards: loggers and figures may draw. Not free, so not in every step."""
    state = RandomState()
    try:
        yield
    finally:
        state.restore()


class _StepBoundary(Callback):
    """Tells the tracker that a step is over.

    Lightning decides what to log after its last hook of a batch, so the tracker does at the first hook that follows,
    whichever it is: in between nothing can ask for the run to stop.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.error: BaseException | None = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.error = exception

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.tracker.flush()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self.tracker.flush()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.tracker.flush()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.tracker.flush()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.tracker.flush()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.tracker.flush()


def _logger_sink(logger: Logger) -> Sink:
    if isinstance(logger, WandbLogger):
        return WandbSink(logger)
    if isinstance(logger, MLFlowLogger):
        return MLFlowSink(logger)
    return TensorBoardSink(logger) if isinstance(logger, TensorBoardLogger) else LoggerSink(logger)
