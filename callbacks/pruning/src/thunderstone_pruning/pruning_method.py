"""What the methods of the family share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

import thunderstone
from thunderstone import ArgumentError, Method, UnsupportedSettingError
from thunderstone.arguments import finite, one_of
from thunderstone_pruning.masks import EMPTY
from thunderstone_pruning.prunable import Patterns, check_patterns, prunable_parameters
from thunderstone_pruning.sparsity import sparsity_report

_SHARDED = "its parameters are held in pieces on several processes, and masks need them whole"


class PruningMethod(Method):
    """A method that owns masks on the weights that `include` and `exclude` leave.

    Subclasses take ``include``, ``exclude`` and mostly ``empty`` in their own `__init__` and hand them to `_prunes`.
    """

    exclusive: ClassVar[frozenset[str]] = frozenset({"masks"})
    unsupported_strategies: ClassVar[dict[str, str]] = {
        "FSDPStrategy": _SHARDED,
        "ModelParallelStrategy": _SHARDED,
        "DeepSpeedStrategy": _SHARDED,
    }

    include: str | list[str] | None
    exclude: str | list[str] | None
    empty: str = "refuse"
    _unreported = False

    def _prunes(self, include: Any, exclude: Any, empty: Any = "refuse") -> None:
        who = type(self).__name__
        check_patterns(who, "include", include)
        check_patterns(who, "exclude", exclude)
        self.include, self.exclude = _plain(include), _plain(exclude)
        self.empty = one_of(who, "empty", empty, EMPTY)

    def _density(self, argument: str, value: object) -> float:
        hint = "0.1 keeps a tenth of the weights; 1 keeps all and prunes nothing"
        return finite(type(self).__name__, argument, value, hint, above=0, maximum=1)

    def _initial_density(self, value: object, density: float) -> float:
        """Where pruning to `density` begins: there, or at more."""
        checked = self._density("initial_density", value)
        if checked < density:
            hint = f"choose one from density={density} to 1"
            reason = "pruning goes from more to less"
            raise ArgumentError(type(self).__name__, "initial_density", value, reason, hint)
        return checked

    def _strategy(self, kind: str, argument: str, value: object) -> str:
        return one_of(type(self).__name__, argument, value, thunderstone.strategies(kind))

    def _prunable(self, module: LightningModule) -> dict[str, nn.Parameter]:
        return prunable_parameters(module, self.include, self.exclude, who=type(self).__name__)

    def _install(self, masks: Mapping[str, Tensor]) -> None:
        """Put masks in force; they are reported when the epoch ends."""
        self.masks.set(masks)
        self._unreported = True
        self._show()

    def _show(self) -> None:
        self.status(sparsity=1 - self.masks.density if self.masks else None)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show how sparse the module is, also where a checkpoint brought the masks."""
        self._show()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the density, and by layer where that is news."""
        if self.masks:
            self.record("density", self.masks.density)
            if self._unreported:
                self.record("sparsity", sparsity_report(pl_module, masks=self.masks).table())
                self._unreported = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say beside the weights how sparse they are, in primitives: `SparsityReport.summary` under ``"sparsity"``."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self.masks:
            checkpoint["sparsity"] = sparsity_report(pl_module, masks=self.masks).summary()


def refuse_manual_optimization(who: str, module: LightningModule, looked_at: str, instead: str) -> None:
    """A `training_step` that steps the optimizers cannot be called only to look at something.

    Args:
        who: The method, for the message.
        module: The LightningModule.
        looked_at: What the method looks at, e.g. ``"gradients"``.
        instead: What to do, for the message.

    Raises:
        UnsupportedSettingError: The module optimizes manually.
    """
    if not module.automatic_optimization:
        raise UnsupportedSettingError(
            who,
            f"manual optimization ({type(module).__name__}.automatic_optimization is False)",
            f"training_step steps the optimizers itself, so it cannot be called to look at {looked_at}",
            instead,
        )


def dense_masks(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks under which every weight stays."""
    return {name: torch.ones(p.shape, dtype=torch.bool, device=p.device) for name, p in parameters.items()}


def _plain(patterns: Patterns) -> str | list[str] | None:
    return patterns if patterns is None or isinstance(patterns, str) else list(patterns)
