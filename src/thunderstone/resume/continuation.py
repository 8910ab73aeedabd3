"""Going on with a run from the point where its checkpoint was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import move_data_to_device

from thunderstone import lightning_private
from thunderstone.resume import place as points
from thunderstone.resume.recorder import LoaderRecorder


class Continuation:
    """Takes the place of the fit loop's run, once, and finishes what was under way before going on as Lightning does.

    Lightning restarts from counters: it works out a likely place, adjusts the counters to it, and leaves out what it
    cannot know (a validation that was due, the end of an epoch, a scheduler that watches a metric). Here the place is
    known, so that exactly the rest is done.

    Args:
        trainer: The Trainer.
        module: The module being fitted.
        recorder: Restores the place in the data.
        saved: This rank's part of the state in the checkpoint.
        restore: Puts gradients, metrics and random states back, and is called right before the first thing that the
            interrupted run did after the checkpoint.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        recorder: LoaderRecorder,
        saved: dict[str, Any],
        restore: Callable[[], None],
    ) -> None:
        self._trainer, self._module, self._recorder = trainer, module, recorder
        self._saved, self._restore = saved, restore
        self._point: str = saved["point"]

    def run(self) -> None:
        """The fit loop's run."""
        trainer, fit_loop = self._trainer, self._trainer.fit_loop
        self._set_counters()
        self._set_up_data()
        unfinished = self._point in points.WITHIN_EPOCH or self._point == points.EPOCH_END
        if unfinished:
            limit = fit_loop.max_epochs
            epochs_are_used_up = limit is not None and 0 <= limit <= lightning_private.epoch_counts(trainer).processed
            if fit_loop.max_batches == 0 or trainer.limit_train_batches == 0 or epochs_are_used_up:
                return
        elif fit_loop.skip:
            return
        fit_loop.reset()
        fit_loop.on_run_start()
        self._set_counters()
        self._set_up_validation()
        if self._finish_epoch():
            while not fit_loop.done:
                try:
                    fit_loop.on_advance_start()
                    fit_loop.advance()
                    fit_loop.on_advance_end()
                except StopIteration:
                    break
                finally:
                    fit_loop.on_iteration_done()
        lightning_private.end_fit(trainer)

    # -- getting ready -------------------------------------------------------------------------------------------------

    def _set_counters(self) -> None:
        lightning_private.load_loop_progress(self._trainer, self._saved["progress"])
        lightning_private.set_steps_for_loggers(self._trainer, self._saved["steps_for_loggers"])
        if self._point == points.EPOCH_END:
            # Lightning takes an epoch that counts as processed for done, and would not run at all after the last.
            lightning_private.take_back_processed_epoch(self._trainer)
        elif self._point == points.IN_STEP:
            lightning_private.take_back_batch(self._trainer)

    def _set_up_data(self) -> None:
        loaders = self._saved["loaders"]
        if loaders is None:
            self._restore()
            return
        progress = lightning_private.epoch_counts(self._trainer)
        goes_on = self._point in points.WITHIN_EPOCH or (
            self._point in (points.BEFORE_TRAINING, points.EPOCH_START) and progress.completed == 0
        )
        self._recorder.resume_from(loaders, goes_on)
        # `train_dataloader` sees the random state and the epoch it saw in the interrupted run.
        completed, progress.completed = progress.completed, loaders["requested_in_epoch"]
        self._trainer.fit_loop.setup_data()
        progress.completed = completed
        self._recorder.finish_resume(loaders)

    def _set_up_validation(self) -> None:
        if self._saved["validation_is_set_up"]:
            if not lightning_private.validation_loader_is_set_up(self._trainer):
                lightning_private.set_up_validation_loader(self._trainer)
            lightning_private.set_validation_reload_epoch(self._trainer, self._saved["validation_requested_in_epoch"])

    # -- the rest of what was under way --------------------------------------------------------------------------------

    def _finish_epoch(self) -> bool:
        """Finish the epoch that was under way. False when Lightning would leave its loop."""
        trainer, fit_loop = self._trainer, self._trainer.fit_loop
        if self._point in (points.BEFORE_TRAINING, points.BETWEEN_EPOCHS):
            if self._saved["loaders"] is not None:
                self._restore()
            return True
        try:
            if self._point in points.WITHIN_EPOCH:
                with lightning_private.profiled(trainer, "run_training_epoch"):
                    self._finish_batches()
                fit_loop.on_advance_end()
            elif self._point == points.EPOCH_END:
                fit_loop.epoch_progress.increment_processed()
                self._restore()
                self._call_rest_of_hook("on_train_epoch_end")
                lightning_private.finish_epoch(trainer)
            else:
                self._restore()
                self._call_rest_of_hook("on_train_epoch_start")
                fit_loop.epoch_progress.increment_started()
                fit_loop.advance()
                fit_loop.on_advance_end()
        except StopIteration:
            return False
        finally:
            fit_loop.on_iteration_done()
        return True

    def _finish_batches(self) -> None:
        epoch_loop = self._trainer.fit_loop.epoch_loop
        fetcher = lightning_private.continue_fetching(self._trainer)
        self._restore()
        self._finish_batch(fetcher)
        epoch_loop.on_iteration_done()
        while not epoch_loop.done:
            try:
                epoch_loop.advance(fetcher)
                epoch_loop.on_advance_end(fetcher)
            except StopIteration:
                break
            finally:
                epoch_loop.on_iteration_done()

    def _finish_batch(self, fetcher: Any) -> None:
        trainer, epoch_loop = self._trainer, self._trainer.fit_loop.epoch_loop
        if self._point == points.BATCH_END:
            self._call_rest_of_hook("on_train_batch_end")
            lightning_private.finish_batch(trainer)
            epoch_loop.on_advance_end(fetcher)
        elif self._point == points.VALIDATION:
            epoch_loop.on_advance_end(fetcher)
        elif self._point == points.VALIDATION_END:
            trainer.validating = True
            self._call_rest_of_hook("on_validation_end")
            trainer.training = True
            lightning_private.finish_validated_batch(trainer)

    def _call_rest_of_hook(self, name: str) -> None:
        trainer, saved = self._trainer, self._saved
        arguments = move_data_to_device(saved["arguments"], self._module.device)
        pending = set(saved["pending"])
        callbacks = [one for one in lightning_private.callbacks_of(trainer) if one.state_key in pending]
        lightning_private.call_hook(trainer, name, callbacks, saved["module_pending"], *arguments)
        if saved["second_round"]:
            lightning_private.call_hook(trainer, name, lightning_private.monitoring_callbacks(trainer), False)
