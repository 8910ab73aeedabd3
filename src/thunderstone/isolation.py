"""For methods and measures that run a module once more and leave no trace of it.

`ModuleState` (with `UntrainedParameters`) and `RandomState` are taken before and restored after; `silenced` makes
logging calls do nothing; `loss_of` reads what a `training_step` returned; `copy_containers` keeps a batch from being
emptied by its first use; `training_pass` goes over the training data once more, and `MicroBatch` and `Rehearsal` are
what `Attachment.rehearse` takes and gives.
"""

from thunderstone.attachment.module_state import ModuleState
from thunderstone.attachment.rehearsal import Rehearsal
from thunderstone.attachment.replay import loss_of, silenced
from thunderstone.attachment.training_pass import DrawnBatch, training_pass
from thunderstone.attachment.untrained_parameters import UntrainedParameters
from thunderstone.attachment.window import MicroBatch, copy_containers
from thunderstone.random_state import RandomState

__all__ = [
    "DrawnBatch",
    "MicroBatch",
    "ModuleState",
    "RandomState",
    "Rehearsal",
    "UntrainedParameters",
    "copy_containers",
    "loss_of",
    "silenced",
    "training_pass",
]
