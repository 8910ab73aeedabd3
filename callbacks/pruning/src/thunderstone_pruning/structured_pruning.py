"""Removing channels, so that the network gets smaller and faster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from thunderstone import ArgumentError, LossStep, hookimpl
from thunderstone.arguments import finite, one_of
from thunderstone_pruning.channels import CHANNEL_SCORES, SCOPES, plan_channels, torch_pruning
from thunderstone_pruning.masks import EMPTY
from thunderstone_pruning.moments import Moment, check_moment, in_updates
from thunderstone_pruning.prunable import check_patterns
from thunderstone_pruning.pruning_method import refuse_manual_optimization
from thunderstone_pruning.structure_method import StructureMethod, file_name


class StructuredPruning(StructureMethod):
    """Removes whole channels and what hangs on them; what is left is an ordinary, smaller module.

    At `start` the channels with the smallest filters go, or those with the smallest scale in the normalisation behind
    them, and training goes on with what is left: weights keep their values, optimizers their state. Li, Kadav,
    Durdanovic, Samet & Graf 2017, arXiv 1608.08710 (filter norms); Liu, Li, Shen, Huang, Yan & Zhang 2017, arXiv
    1708.06519 (normalisation scales, with `penalty`). What hangs together is found by torch-pruning (Fang, Ma, Song,
    Mi & Wang 2023, arXiv 2301.12900). Cost: a few forward passes at `start`; afterwards less than the plain run.

    Args:
        ratio: Share of the channels that goes, from 0 to below 1; 0 switches the method off.
        start: When: updates (a whole number), a share of training (between 0 and 1), or epochs (``"2 epochs"``). 0 is
            before the first update, from the weights the module was given.
        score: ``"l1"``, ``"l2"`` (norm of the filter) or ``"normalisation_scale"``.
        scope: ``"layer"`` removes the share of each layer, ``"global"`` compares all of them.
        penalty: Until then, weight of the sum of the absolute scales of batch normalisation in the loss, 0 or more.
            Network slimming uses 1e-4 or 1e-5.
        structure: File for what was removed and the weights there, below the run's own folder; for `FixedStructure`.
            None writes none.
        include: Patterns of layers that lose channels; None is all convolutions and linear layers, those aside that
            make the output.
        exclude: Patterns of layers that keep theirs.
        empty: A layer that would lose its last channel: ``"refuse"`` raises, ``"keep_one"`` leaves it its best.

    Raises:
        ArgumentError: An argument is out of range, a pattern matches nothing, no layer can lose channels, a layer
            would lose all, or the module's code counts on a number of channels.
        UnsupportedSettingError: The module optimizes manually, or a callback averages weights.
        ImportError: torch-pruning is not installed.
    """

    name: ClassVar[str] = "structured_pruning"

    def __init__(
        self,
        ratio: float = 0.5,
        start: int | float | str = 0,
        score: str = "l1",
        scope: str = "layer",
        penalty: float = 0.0,
        structure: str | None = "structure.pt",
        include: str | list[str] | None = None,
        exclude: str | list[str] | None = None,
        empty: str = "refuse",
    ) -> None:
        who = type(self).__name__
        hint = "0.5 removes every second channel; 0 switches the method off"
        self.ratio = finite(who, "ratio", ratio, hint, minimum=0)
        if self.ratio >= 1:
            raise ArgumentError(who, "ratio", ratio, "it must be below 1, or nothing is left", hint)
        self.start: Moment = check_moment(who, "start", start)
        self.score = one_of(who, "score", score, CHANNEL_SCORES)
        self.scope = one_of(who, "scope", scope, SCOPES)
        self.penalty = finite(who, "penalty", penalty, "network slimming uses 1e-4", minimum=0)
        self.structure = file_name(who, structure)
        check_patterns(who, "include", include)
        check_patterns(who, "exclude", exclude)
        self.include, self.exclude = include, exclude
        self.empty = one_of(who, "empty", empty, EMPTY)
        self._at = 0

    @property
    def _off(self) -> bool:
        return self.ratio == 0

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse early what cannot work."""
        if not self._off:
            torch_pruning(type(self).__name__)
            instead = "use plan_channels on the module before training"
            refuse_manual_optimization(type(self).__name__, pl_module, "the graph of the loss", instead)
        super().on_attach(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out when; prune if that is now."""
        if not self._off:
            self._at = in_updates(type(self).__name__, "start", self.start, trainer)
            self._prune_if_due(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Prune if it is time."""
        if not self._off:
            self._prune_if_due(trainer, pl_module)

    @hookimpl
    def loss_terms(self, step: LossStep) -> Mapping[str, Tensor] | None:
        """The penalty on normalisation scales, until channels are removed."""
        if self._off or self.penalty == 0 or self._found is not None:
            return None
        scales = [m.weight for m in step.module.modules() if isinstance(m, _BatchNorm) and m.weight is not None]
        if not scales:
            reason = "the module has no batch normalisation with a scale"
            raise ArgumentError(type(self).__name__, "penalty", self.penalty, reason, "leave it at 0")
        total = sum((scale.abs().sum() for scale in scales[1:]), scales[0].abs().sum())
        return {"penalty": self.penalty * total}

    def _prune_if_due(self, trainer: Trainer, module: LightningModule) -> None:
        if self._found is not None or trainer.global_step < self._at:
            return
        self._remove(
            trainer,
            module,
            lambda tracer: plan_channels(
                module,
                tracer,
                self.ratio,
                score=self.score,
                scope=self.scope,
                include=self.include,
                exclude=self.exclude,
                empty=self.empty,
                who=type(self).__name__,
            ),
        )
