"""Gradual magnitude pruning."""

from __future__ import annotations

from typing import ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer

import thunderstone
from thunderstone import UpdateStep, hookimpl
from thunderstone.arguments import one_of, whole
from thunderstone_pruning.densities import layer_counts, uniform
from thunderstone_pruning.loss_gradients import loss_gradients
from thunderstone_pruning.masks import Masks, global_masks, layer_masks
from thunderstone_pruning.moments import Moment, check_moment, span_in_updates
from thunderstone_pruning.pruning_method import PruningMethod, dense_masks
from thunderstone_pruning.scores import Candidates


class GradualPruning(PruningMethod):
    """Prunes while the network trains, along a schedule from one density to another.

    After every `interval`-th update between `start` and `stop` the weights with the smallest scores go, until as many
    are left as the schedule says; what is gone stays gone. Zhu & Gupta 2017, arXiv 1710.01878, equation 1. Cost: one
    selection of the largest weights each time.

    Args:
        density: Share of the prunable weights that is left at `stop`, above 0 and at most 1; 1 switches it off.
        initial_density: Share at `start`.
        start: When pruning begins: updates (a whole number), a share of training (between 0 and 1), or epochs
            (``"2 epochs"``).
        stop: When it ends, likewise. The rest of training is for recovering.
        interval: Updates between two prunings. The paper uses 100 to 1000.
        schedule: A ``pruning.schedule`` strategy: ``"cubic"``, ``"linear"``, ``"geometric"``, ``"one_shot"`` (at
            `start`) or another.
        scope: ``"global"`` compares all weights, ``"layer"`` prunes every layer to the same density, as the paper does.
        score: A ``pruning.score`` strategy.
        seed: Of a score that draws.
        include: Patterns of what to prune; None is every weight of convolutions, linear and recurrent layers,
            embeddings and attention.
        exclude: Patterns of what not to prune.
        empty: Where a layer would lose its last weight: ``"keep_one"`` leaves it its best, ``"refuse"`` raises, which
            in the middle of training ends the run.

    Raises:
        ArgumentError: An argument is out of range, a pattern matches nothing or everything, or a layer would be empty.
        UnsupportedSettingError: `start` or `stop` is a share of a training of unknown length.
    """

    name: ClassVar[str] = "gradual_pruning"

    def __init__(
        self,
        density: float = 0.1,
        initial_density: float = 1.0,
        start: int | float | str = 0,
        stop: int | float | str = 0.75,
        interval: int = 100,
        schedule: str = "cubic",
        scope: str = "global",
        score: str = "magnitude",
        seed: int = 0,
        include: str | list[str] | None = None,
        exclude: str | list[str] | None = None,
        empty: str = "keep_one",
    ) -> None:
        who = type(self).__name__
        self.density = self._density("density", density)
        self.initial_density = self._initial_density(initial_density, self.density)
        self.start: Moment = check_moment(who, "start", start)
        self.stop: Moment = check_moment(who, "stop", stop)
        self.interval = whole(who, "interval", interval, "the paper uses 100 to 1000")
        self.schedule = self._strategy("pruning.schedule", "schedule", schedule)
        self.scope = one_of(who, "scope", scope, ("global", "layer"))
        self.score = self._strategy("pruning.score", "score", score)
        self.seed = whole(who, "seed", seed, "any number from 0 on", minimum=0)
        self._prunes(include, exclude, empty)
        self._first, self._last = 0, 0
        self._finished = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out when; prune at once if that is now."""
        who = type(self).__name__
        self._finished = self.density == 1
        if self._finished:
            return
        self._first, self._last = span_in_updates(who, self.start, self.stop, trainer)
        self._prunable(pl_module)
        if not self.masks:
            self._prune_if_due(trainer, pl_module, trainer.global_step)
        self._finished = bool(self.masks) and self.masks.kept <= round(self.density * self.masks.total)

    @hookimpl
    def after_update(self, step: UpdateStep) -> None:
        """Prune, if it is time to."""
        if not self._finished:
            self._prune_if_due(step.trainer, step.module, step.index + 1)

    def _prune_if_due(self, trainer: Trainer, module: LightningModule, updates: int) -> None:
        # Beyond the end there is something left to do where training went on from a checkpoint of another run.
        late = updates >= self._last
        if updates < self._first or not (late or (updates - self._first) % self.interval == 0):
            return
        progress = 1.0 if late else (updates - self._first) / (self._last - self._first)
        schedule = thunderstone.strategy("pruning.schedule", self.schedule)
        density = schedule(progress, self.initial_density, self.density)
        if density < 1:
            self._install(self._next_masks(trainer, module, density, updates))
        self._finished = late

    def _next_masks(self, trainer: Trainer, module: LightningModule, density: float, updates: int) -> Masks:
        who = type(self).__name__
        parameters = self._prunable(module)
        weights = {name: parameter.detach() for name, parameter in parameters.items()}
        candidates = Candidates(
            weights,
            lambda: loss_gradients(self, trainer, module, parameters, occasion=updates),
            torch.Generator().manual_seed(self.seed + updates),
        )
        scores = thunderstone.strategy("pruning.score", self.score)(candidates)
        before = dict(self.masks) or dense_masks(weights)
        kept = {name: int(mask.count_nonzero()) for name, mask in before.items()}
        if self.scope == "global":
            keep = min(sum(kept.values()), round(density * sum(weight.numel() for weight in weights.values())))
            return global_masks(scores, keep, before, empty=self.empty, who=who)
        sizes = {name: weight.numel() for name, weight in weights.items()}
        shares = uniform({name: tuple(weight.shape) for name, weight in weights.items()}, density)
        counts = layer_counts(shares, sizes, empty=self.empty, who=who)
        return layer_masks(scores, {name: min(kept[name], counts[name]) for name in counts}, before, who=who)
