"""The best of several random sparse networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from thunderstone import StepError
from thunderstone.arguments import whole
from thunderstone.isolation import MicroBatch, ModuleState, loss_of, silenced, training_pass
from thunderstone_pruning.masks import Masks
from thunderstone_pruning.pruning_method import PruningMethod, refuse_manual_optimization
from thunderstone_pruning.random_masks import distributed, random_masks


class RandomSearch(PruningMethod):
    """Draws sparse networks before the first step and trains the one whose untrained loss is the lowest.

    The baseline that whatever searches for sub-networks has to beat (arXiv 2403.08265). Every candidate keeps exactly
    as many weights in each layer, and is judged on the same batches with the same random numbers. Cost: `candidates`
    times `batches` forward passes when training starts. Batches are drawn as training draws them, by a pass of their
    own: the run sees the same data, random numbers, statistics and logs as without it.

    Args:
        density: Share of the prunable weights that stays, above 0 and at most 1; 1 switches the method off.
        candidates: How many networks are drawn; 1 is random pruning.
        batches: Training batches whose mean loss is looked at.
        distribution: How the density is shared out among layers: a ``pruning.density`` strategy.
        seed: Of the first candidate; each has the next one.
        include: Patterns of what to prune; None is every weight of convolutions, linear and recurrent layers,
            embeddings and attention.
        exclude: Patterns of what not to prune.
        empty: Where a layer would lose its last weight: ``"refuse"`` raises, ``"keep_one"`` leaves it one.

    Raises:
        ArgumentError: An argument is out of range, a pattern matches nothing or everything, or a layer would be empty.
        UnsupportedSettingError: The module optimizes manually, or its data is a stream that can be read only once.
        StepError: No candidate has a finite loss.
    """

    name: ClassVar[str] = "random_search"

    def __init__(
        self,
        density: float = 0.1,
        candidates: int = 10,
        batches: int = 1,
        distribution: str = "uniform",
        seed: int = 0,
        include: str | list[str] | None = None,
        exclude: str | list[str] | None = None,
        empty: str = "refuse",
    ) -> None:
        who = type(self).__name__
        self.density = self._density("density", density)
        self.candidates = whole(who, "candidates", candidates, "10 are a beginning")
        self.batches = whole(who, "batches", batches, "1 is one training batch")
        self.distribution = self._strategy("pruning.density", "distribution", distribution)
        self.seed = whole(who, "seed", seed, "any number from 0 on", minimum=0)
        self._prunes(include, exclude, empty)

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse early what cannot work."""
        if self.density < 1:
            instead = "use RandomPruning or GradualPruning"
            refuse_manual_optimization(type(self).__name__, pl_module, "the loss", instead)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, unless masks are there already (of a checkpoint, or of a fit of this module before)."""
        if self.masks or self.density == 1:
            return
        who = type(self).__name__
        weights = {name: parameter.detach() for name, parameter in self._prunable(pl_module).items()}
        keep = distributed(weights, self.density, self.distribution, empty=self.empty, who=who)
        best: tuple[float, Masks] | None = None
        phase = self.progress("candidates", self.candidates)
        with phase, training_pass(who, trainer, pl_module) as drawn:
            batches = [self.attachment.micro_batch(batch) for batch in islice(drawn, self.batches)]
            for number in range(self.candidates):
                masks = random_masks(weights, keep, self.seed + number, who=who)
                loss = _masked_loss(trainer, pl_module, weights, masks, batches)
                if math.isfinite(loss) and (best is None or loss < best[0]):
                    best = loss, masks
                phase.advance()
        if best is None:
            raise StepError(
                f"{who}: none of {self.candidates} networks has a finite loss. HINT: look for NaN in weights or data, "
                "or for a training_step that returns None; more batches= may hold one with a loss"
            )
        self._install(best[1])


@torch.no_grad()
def _masked_loss(
    trainer: Trainer,
    module: LightningModule,
    weights: Mapping[str, Tensor],
    masks: Masks,
    batches: Sequence[MicroBatch],
) -> float:
    """The mean loss of the masked network over batches and replicas; NaN where there is none. Leaves no trace."""
    kept = {name: weight.clone() for name, weight in weights.items()}
    state = ModuleState(module)
    losses = []
    try:
        for name, weight in weights.items():
            weight.mul_(masks[name])
        for batch in batches:
            # As training will see it: with the same dropout for every candidate.
            batch.random_state.restore()
            arguments, keywords = batch.fresh_call()
            step: Any = module.training_step
            with silenced(trainer, module), trainer.precision_plugin.train_step_context():
                loss = loss_of(step(*arguments, **keywords))
            state.restore()
            if loss is not None:
                losses.append(loss.detach().float())
    finally:
        state.restore()
        for name, weight in weights.items():
            weight.copy_(kept[name])
    mean = torch.stack(losses).mean() if losses else torch.tensor(math.nan, device=trainer.strategy.root_device)
    return float(trainer.strategy.reduce(mean, reduce_op="mean"))
