"""The method that makes a resumed run end with the bits of one that was never interrupted."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from thunderstone import lightning_private
from thunderstone.arguments import flag
from thunderstone.attachment.method import Method
from thunderstone.random_state import RandomState
from thunderstone.resume import place as points
from thunderstone.resume.continuation import Continuation
from thunderstone.resume.generators import device_states, set_device_states
from thunderstone.resume.gradients import restore_gradients, waiting_gradients
from thunderstone.resume.metrics import measured, restore_measured
from thunderstone.resume.place import locate
from thunderstone.resume.ranks import gather_on_rank_zero
from thunderstone.resume.recorder import LoaderRecorder

_VERSION = 1
_STATE_KEY = f"{__name__}.ExactResume"


class ExactResume(Method):
    """Resume from any checkpoint as if the run had never been interrupted.

    Adds to every checkpoint what Lightning leaves out: the random states of Python, NumPy, torch and every device, of
    each rank; the place in the data, down to the batch; the gradients of an accumulation under way; the metrics
    accumulated in the epoch under way; and what was still to be done at the moment of the checkpoint. After
    ``trainer.fit(ckpt_path=...)`` the run goes on from exactly there. A run that is not resumed is not changed.

    Args:
        enabled: False leaves it all out, as if the method were not there.
        reload_consumed: Let the workers of a loader load again what had been consumed of the epoch, so that the random
            numbers they draw go on where they were. False is faster, and exact only where the dataset draws none.

    Raises:
        ArgumentError: An argument is not True or False.
    """

    name: ClassVar[str] = "resume"

    def __init__(self, enabled: bool = True, reload_consumed: bool = True) -> None:
        self.enabled = flag("ExactResume", "enabled", enabled, "pass enabled=False to leave it out")
        hint = "pass reload_consumed=False where the dataset draws no random numbers"
        self.reload_consumed = flag("ExactResume", "reload_consumed", reload_consumed, hint)
        self._recorder: LoaderRecorder | None = None
        self._trainer: weakref.ref[Trainer] | None = None
        self._loaded: dict[str, Any] | None = None
        self._undo_run: Callable[[], object] | None = None
        self._continued = False

    @property
    def continued(self) -> bool:
        """Whether this fit goes on from the very place in the data at which a checkpoint was written."""
        return self._continued

    @property
    def state_key(self) -> str:
        # Lightning asks for it in every hook of every step, and it never changes.
        return _STATE_KEY

    def __getstate__(self) -> dict[str, Any]:
        arguments = self.arguments
        return {**arguments, **dict.fromkeys(("_recorder", "_trainer", "_loaded", "_undo_run")), "_continued": False}

    # -- life cycle ----------------------------------------------------------------------------------------------------

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loaded, self._continued = None, False
        if self.enabled:
            self._trainer = weakref.ref(trainer)
            self._recorder = LoaderRecorder(trainer, self.reload_consumed)

    def on_detach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._recorder is not None:
            self._recorder.freeze()
            self._recorder.stop()
        if self._undo_run is not None:
            self._undo_run()
            self._undo_run = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning shuts the loaders down before it calls `teardown`, and a checkpoint may be written after the fit.
        if self._recorder is not None:
            self._recorder.freeze()

    # -- rounds --------------------------------------------------------------------------------------------------------

    def begin_round(self) -> None:
        """The budget is spent again: what is known of the data of the round before holds no more."""
        self._loaded, self._continued = None, False
        if self._recorder is not None:
            self._recorder.stop()
            self._recorder = LoaderRecorder(self.attachment.trainer, self.reload_consumed)

    def place(self) -> dict[str, Any]:
        """Where the run is at this moment, on this rank; see `run_from`."""
        assert self._recorder is not None
        return self._capture(self.attachment.trainer, self._recorder)

    def go_on_from(self, place: dict[str, Any], restored: Callable[[], None] = lambda: None) -> None:
        """Let the fit loop's next run go on from a place.

        Args:
            place: Of this fit (`place`), or of one that is resumed.
            restored: Called when the random states are those of the place, right before the first thing is done.
        """
        assert self._recorder is not None
        trainer = self.attachment.trainer
        self._loaded = place

        def restore() -> None:
            self._restore()
            restored()

        continuation = Continuation(trainer, self.attachment.module, self._recorder, place, restore)
        put_back = lightning_private.replace_run(trainer, lambda: self._run(continuation))
        # Lightning checks the validation loop before it goes on from the end of an epoch: the module would go through
        # the hooks of a validation that the interrupted run did not have at this point.
        sanity_steps, trainer.num_sanity_val_steps = trainer.num_sanity_val_steps, 0

        def undo() -> None:
            put_back()
            trainer.num_sanity_val_steps = sanity_steps

        self._undo_run = undo

    # -- writing a checkpoint ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        trainer = self._trainer() if self._trainer is not None else None
        if not self.enabled or trainer is None or self._recorder is None:
            return {}
        # A checkpoint written before the loaded state is in force holds that state again.
        mine = self._loaded if self._loaded is not None else self._capture(trainer, self._recorder)
        ranks = gather_on_rank_zero(trainer, mine)
        return {"version": _VERSION, "world_size": trainer.world_size, "ranks": ranks}

    def _capture(self, trainer: Trainer, recorder: LoaderRecorder) -> dict[str, Any]:
        module = trainer.lightning_module
        place = locate(trainer, module)
        loaders, notes = recorder.state_dict(rewind=int(place.point == points.IN_STEP))
        state = {
            "point": place.point,
            "pending": place.pending,
            "module_pending": place.module_pending,
            "second_round": place.second_round,
            "arguments": place.arguments,
            "notes": [*place.notes, *notes],
            "progress": lightning_private.loop_progress(trainer),
            "steps_for_loggers": lightning_private.steps_for_loggers(trainer),
            "should_stop": trainer.should_stop,
            "validation_is_set_up": lightning_private.validation_loader_is_set_up(trainer),
            "validation_requested_in_epoch": lightning_private.reload_epochs(trainer)[1],
            "loaders": loaders,
            "gradients": waiting_gradients(trainer, module),
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "measured": measured(trainer, module),
            "window": self._window(trainer, place.point),
        }
        # Last, so that nothing above can come between.
        return {**state, "random": RandomState().state_dict(), "devices": device_states()}

    def _window(self, trainer: Trainer, point: str) -> dict[str, Any]:
        """The attachment's record of the micro-batches of an update under way: what it has in ``"batches"``, one entry
        each, in order."""
        window = self._attachment.window.state_dict() if self._attachment is not None else {}
        if point == points.IN_STEP and window:
            completed = lightning_private.batch_counts(trainer).completed
            before = completed % trainer.accumulate_grad_batches
            return {**window, "batches": window["batches"][:before]} if before else {}
        return window

    # -- after a checkpoint was loaded ---------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.enabled or self._attachment is None or self._recorder is None:
            return
        trainer = self._attachment.trainer
        reason = _cannot_be_used(state_dict, trainer)
        if reason is not None:
            rank_zero_warn(
                f"ExactResume: {reason}. Training goes on as Lightning resumes it: with other random numbers, and from "
                "the beginning of the epoch's data if it was interrupted in mid-epoch"
            )
            return
        self.go_on_from(state_dict["ranks"][trainer.global_rank])

    def _run(self, continuation: Continuation) -> None:
        if self._undo_run is not None:
            self._undo_run()
            self._undo_run = None
        self._forget_early_loader()
        continuation.run()

    def _forget_early_loader(self) -> None:
        # A loader made while the optimizers were set up knows nothing of the checkpoint, which was not loaded then.
        attachment, saved = self._attachment, self._loaded
        if attachment is None or saved is None or saved["loaders"] is None:
            return
        if lightning_private.forget_train_loader(attachment.trainer):
            attachment.release_views()

    def _restore(self) -> None:
        saved, recorder, attachment = self._loaded, self._recorder, self._attachment
        assert saved is not None
        assert recorder is not None
        assert attachment is not None
        trainer, module = attachment.trainer, attachment.module
        self._warn_if_inexact(trainer, saved, recorder)
        restore_gradients(module, saved["gradients"])
        restore_measured(trainer, module, saved["measured"])
        if saved["point"] in (points.VALIDATION, points.VALIDATION_END):
            # These were set aside for the validation when the checkpoint was written.
            first = lightning_private.batch_counts(trainer).ready == 1
            lightning_private.set_first_batch(trainer, first)
        attachment.window.load_state_dict(saved["window"], module, trainer.strategy.root_device)
        if saved["point"] != points.BETWEEN_EPOCHS:
            trainer.should_stop = saved["should_stop"]
        if saved["loaders"] is not None:
            recorder.restore_held(saved["loaders"])
        self._loaded, self._continued = None, True
        set_device_states(saved["devices"])
        RandomState.from_state_dict(saved["random"]).restore()

    def _warn_if_inexact(self, trainer: Trainer, saved: dict[str, Any], recorder: LoaderRecorder) -> None:
        notes = [*saved["notes"], *recorder.notes]
        if saved["gradients"] and saved["accumulate_grad_batches"] != trainer.accumulate_grad_batches:
            notes.append(
                f"accumulate_grad_batches was {saved['accumulate_grad_batches']}, now it is "
                f"{trainer.accumulate_grad_batches}"
            )
        if notes:
            rank_zero_warn(
                f"ExactResume: the resumed run may differ from one that was not interrupted: {'; '.join(notes)}."
            )


def _cannot_be_used(state: dict[str, Any], trainer: Trainer) -> str | None:
    if state.get("version") != _VERSION:
        return f"the checkpoint holds a state of version {state.get('version')}, and this release reads {_VERSION}"
    if state["world_size"] != trainer.world_size or len(state["ranks"]) != trainer.world_size:
        return (
            f"the checkpoint was written by {state['world_size']} processes and is resumed by {trainer.world_size}, "
            "each of which has data and random numbers of its own (resume with as many devices and nodes to be exact)"
        )
    return None
