"""Single-shot network pruning."""

from __future__ import annotations

from typing import ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer

import thunderstone
from thunderstone.arguments import whole
from thunderstone_pruning.loss_gradients import loss_gradients
from thunderstone_pruning.masks import global_masks
from thunderstone_pruning.pruning_method import PruningMethod, refuse_manual_optimization
from thunderstone_pruning.scores import Candidates


class SNIP(PruningMethod):
    """Removes, before the first step, the connections to which the loss answers least.

    Of all prunable weights together those with the largest ``|w dL/dw|`` stay, exactly as many as asked for. Lee,
    Ajanthan & Torr 2019, arXiv 1810.02340, equations 3 to 6. Cost: one forward and backward pass for each of `batches`
    when training starts. Batches are drawn as training draws them, by a pass of their own: the run sees the same data,
    random numbers, statistics and logs as without it.

    Args:
        density: Share of the prunable weights that stays, above 0 and at most 1; 1 switches the method off.
        batches: Training batches whose mean loss is looked at. The paper uses one, of 100 or 128 examples.
        score: A ``pruning.score`` strategy.
        seed: Of a score that draws.
        include: Patterns of what to prune; None is every weight of convolutions, linear and recurrent layers,
            embeddings and attention.
        exclude: Patterns of what not to prune.
        empty: Where a layer would lose its last weight: ``"refuse"`` raises, ``"keep_one"`` leaves it its best.

    Raises:
        ArgumentError: An argument is out of range, a pattern matches nothing or everything, or a layer would be empty.
        UnsupportedSettingError: The module optimizes manually, or its data is a stream that can be read only once.
    """

    name: ClassVar[str] = "snip"

    def __init__(
        self,
        density: float = 0.1,
        batches: int = 1,
        score: str = "snip",
        seed: int = 0,
        include: str | list[str] | None = None,
        exclude: str | list[str] | None = None,
        empty: str = "refuse",
    ) -> None:
        who = type(self).__name__
        self.density = self._density("density", density)
        self.batches = whole(who, "batches", batches, "the paper uses one")
        self.score = self._strategy("pruning.score", "score", score)
        self.seed = whole(who, "seed", seed, "any number from 0 on", minimum=0)
        self._prunes(include, exclude, empty)

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse early what cannot work."""
        if self.density < 1:
            instead = "use RandomPruning or GradualPruning"
            refuse_manual_optimization(type(self).__name__, pl_module, "gradients", instead)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune, unless masks are there already (of a checkpoint, or of a fit of this module before)."""
        if self.masks or self.density == 1:
            return
        parameters = self._prunable(pl_module)
        candidates = Candidates(
            {name: parameter.detach() for name, parameter in parameters.items()},
            lambda: loss_gradients(self, trainer, pl_module, parameters, self.batches),
            torch.Generator().manual_seed(self.seed),
        )
        scores = thunderstone.strategy("pruning.score", self.score)(candidates)
        keep = round(self.density * sum(parameter.numel() for parameter in parameters.values()))
        self._install(global_masks(scores, keep, empty=self.empty, who=type(self).__name__))
