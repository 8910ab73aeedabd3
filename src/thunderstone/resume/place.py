"""At which point of its loops a run is when a checkpoint is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.model_helpers import is_overridden

from thunderstone import lightning_private
from thunderstone.lightning_private import RunningHook
from thunderstone.resume.portable import is_portable

BEFORE_TRAINING = "before_training"
EPOCH_START = "epoch_start"
IN_STEP = "in_step"
BATCH_END = "batch_end"
VALIDATION = "validation"
VALIDATION_END = "validation_end"
BETWEEN_BATCHES = "between_batches"
EPOCH_END = "epoch_end"
BETWEEN_EPOCHS = "between_epochs"

# The epoch goes on with the iterators it has.
WITHIN_EPOCH = frozenset({IN_STEP, BATCH_END, VALIDATION, VALIDATION_END, BETWEEN_BATCHES})

_HOOKS = {
    "on_train_epoch_start": EPOCH_START,
    "on_train_batch_end": BATCH_END,
    "on_validation_end": VALIDATION_END,
    "on_train_epoch_end": EPOCH_END,
}


@dataclass
class Place:
    """A point in the loops.

    Attributes:
        point: One of the names above.
        pending: Of the hook that was running, the callbacks (by `state_key`) whose turn had not come.
        module_pending: Whether the module's turn had not come.
        second_round: Whether the callbacks that monitor a metric were still to be called after the module.
        arguments: What the hook was called with, where that must be known to call the rest.
        notes: Why a run resumed from here may differ.
    """

    point: str
    pending: list[str] = field(default_factory=list)
    module_pending: bool = False
    second_round: bool = False
    arguments: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def locate(trainer: Trainer, module: LightningModule | None) -> Place:
    """Where the run is now."""
    hook = lightning_private.running_hook()
    if hook is not None and hook.name in _HOOKS and _is_training(trainer) and not trainer.sanity_checking:
        return _in_hook(trainer, module, hook, _HOOKS[hook.name])
    if trainer.sanity_checking:
        return Place(BEFORE_TRAINING, notes=["the checkpoint was written during the sanity check"])
    place = Place(_by_counters(trainer))
    if place.point in (IN_STEP, VALIDATION):
        what = "in the middle of a training step" if place.point == IN_STEP else "in the middle of a validation"
        place.notes.append(
            f"the checkpoint was written {what}, so that is begun again (write checkpoints in on_train_batch_end, "
            "on_validation_end or on_train_epoch_end, as ModelCheckpoint does)"
        )
    elif place.point != BETWEEN_EPOCHS and hook is not None and hook.name == "on_exception":
        exception = hook.arguments[0] if hook.arguments else None
        if not isinstance(exception, SIGTERMException):
            place.notes.append(
                f"the checkpoint was written after {type(exception).__name__}, which may have come after random "
                "numbers were drawn for the next step (resume from the last regular checkpoint)"
            )
    return place


def _is_training(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING


def _by_counters(trainer: Trainer) -> str:
    epoch, batch = lightning_private.epoch_counts(trainer), lightning_private.batch_counts(trainer)
    if epoch.ready == epoch.completed:
        return BETWEEN_EPOCHS if epoch.completed > 0 else BEFORE_TRAINING
    if epoch.started < epoch.ready:
        return EPOCH_START
    if epoch.processed == epoch.ready:
        return EPOCH_END
    if trainer.validating:
        return VALIDATION
    if batch.ready > batch.processed:
        return IN_STEP
    return BETWEEN_BATCHES if batch.processed == batch.completed else BATCH_END


def _in_hook(trainer: Trainer, module: LightningModule | None, hook: RunningHook, point: str) -> Place:
    pending = [one for one in hook.pending if is_overridden(hook.name, one, parent=Callback)]
    module_pending = (
        not hook.in_module and hook.monitoring is not True and module is not None and is_overridden(hook.name, module)
    )
    second_round = hook.name == "on_train_epoch_end" and (hook.in_module or hook.monitoring is False)
    place = Place(point, [one.state_key for one in pending], module_pending, second_round)
    if not hook.arguments:
        return place
    # ModelCheckpoint looks at the Trainer alone; storing a batch for it would be a waste.
    needed = module_pending or any(not isinstance(one, Checkpoint) for one in pending)
    place.arguments = [None] * (len(hook.arguments) - 1) + [hook.arguments[-1]]
    if needed and is_portable(list(hook.arguments)):
        place.arguments = list(hook.arguments)
    elif needed:
        place.module_pending = False
        place.pending = [one.state_key for one in pending if isinstance(one, Checkpoint)]
        place.notes.append(
            f"after the checkpoint was written, {hook.name} was still to be called for the module or other callbacks, "
            "and its outputs or batch hold objects that a checkpoint cannot store"
        )
    return place
