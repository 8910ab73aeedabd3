"""Whether the attached methods can work in a run as it is set up."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer

from thunderstone.attachment.hook_manager import HookManager
from thunderstone.attachment.method import Method
from thunderstone.attachment.strategies import check_strategy, check_whole_parameters
from thunderstone.errors import UnsupportedSettingError


def check_settings(trainer: Trainer, module: LightningModule, methods: Sequence[Method], manager: HookManager) -> None:
    """Refuse what cannot work.

    Raises:
        UnsupportedSettingError: A strategy, manual optimization, or a module that draws its own batches.
    """
    strategy = type(trainer.strategy).__name__
    for method in methods:
        if strategy in method.unsupported_strategies:
            raise UnsupportedSettingError(
                type(method).__name__,
                f"strategy={strategy}",
                method.unsupported_strategies[strategy],
                "use another strategy, or leave the method out",
            )
    for method in methods:
        if method.exclusive & {"masks", "rounds"}:
            check_whole_parameters(trainer, type(method).__name__)
    if not manager.takes_part_in_steps:
        return
    if not module.automatic_optimization:
        raise UnsupportedSettingError(
            manager.step_users,
            f"manual optimization ({type(module).__name__}.automatic_optimization is False)",
            "the module steps its optimizers itself, so there is no moment at which the gradients of a whole "
            "batch are there and the optimizer has not run",
            "let Lightning optimize (automatic_optimization = True and a training_step that returns the loss), "
            "or call the method's pure function from your own loop",
        )
    check_strategy(trainer, manager.step_users)
    if "dataloader_iter" in inspect.signature(module.training_step).parameters:
        raise UnsupportedSettingError(
            manager.step_users,
            "training_step(self, dataloader_iter)",
            "batches drawn by the module itself cannot be gone through a second time",
            "take `batch` and let Lightning draw it",
        )
