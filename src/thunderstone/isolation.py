"""For methods and measures that run a module once more and leave no trace of it.

`ModuleState` and `RandomState` are taken before and restored after; `silenced` makes logging calls do nothing;
`loss_of` reads what a `training_step` returned; `copy_containers` keeps a batch from being emptied by its first use.
"""

from thunderstone.attachment.module_state import ModuleState
from thunderstone.attachment.replay import loss_of, silenced
from thunderstone.attachment.window import copy_containers
from thunderstone.random_state import RandomState

__all__ = ["ModuleState", "RandomState", "copy_containers", "loss_of", "silenced"]
