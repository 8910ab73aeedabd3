"""Gradual pruning with regeneration."""

from __future__ import annotations

from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer

from thunderstone import UnsupportedSettingError, UpdateStep, hookimpl
from thunderstone.arguments import finite, whole
from thunderstone_pruning.masks import global_masks
from thunderstone_pruning.moments import Moment, check_moment, span_in_updates, total_updates
from thunderstone_pruning.pruning_method import PruningMethod, dense_masks
from thunderstone_pruning.random_masks import distributed, random_masks
from thunderstone_pruning.regrowth import cosine, drop, grow, moved
from thunderstone_pruning.schedules import cubic


class GraNet(PruningMethod):
    """Prunes while the network trains, and lets connections move all the while.

    After every `interval`-th update the density goes to ``d_f + (d_i - d_f) (1 - t)^3`` by global magnitude; then in
    each layer a fraction of what is left, the smallest, is dropped, and as many connections grow where the gradient of
    the loss is largest among the zeros. They start at zero. The fraction falls to 0 along a cosine over the whole
    training, and moving goes on when pruning has ended. Liu et al. 2021, arXiv 2106.10404, algorithm 1. Cost: a few
    selections of the largest weights each time; the gradients of pruned weights come with the ordinary pass.

    Args:
        density: Share of the prunable weights that is left at `stop`, above 0 and at most 1; 1 switches it off.
        initial_density: Share that training starts with: 1 is dense-to-sparse, less is sparse-to-sparse (the paper
            uses 0.5).
        distribution: How the initial density is shared out among layers: a ``pruning.density`` strategy.
        start: When pruning begins: updates (a whole number), a share of training (between 0 and 1), or epochs
            (``"2 epochs"``).
        stop: When it ends, likewise.
        interval: Updates between two changes. The paper uses 1000 to 4000.
        regrowth: Fraction of the remaining weights of a layer that moves in the beginning, from 0 to below 1; 0 is
            gradual pruning. The paper uses 0.5.
        seed: Of the initial mask of sparse-to-sparse training.
        include: Patterns of what to prune; None is every weight of convolutions, linear and recurrent layers,
            embeddings and attention.
        exclude: Patterns of what not to prune.
        empty: Where a layer would lose its last weight: ``"keep_one"`` leaves it its best, ``"refuse"`` raises, which
            in the middle of training ends the run.

    Raises:
        ArgumentError: An argument is out of range, a pattern matches nothing or everything, or a layer would be empty.
        UnsupportedSettingError: The training has no known length, along which the fraction could fall.
    """

    name: ClassVar[str] = "granet"

    def __init__(
        self,
        density: float = 0.1,
        initial_density: float = 1.0,
        distribution: str = "erk",
        start: int | float | str = 0,
        stop: int | float | str = 0.5,
        interval: int = 1000,
        regrowth: float = 0.5,
        seed: int = 0,
        include: str | list[str] | None = None,
        exclude: str | list[str] | None = None,
        empty: str = "keep_one",
    ) -> None:
        who = type(self).__name__
        self.density = self._density("density", density)
        self.initial_density = self._initial_density(initial_density, self.density)
        self.distribution = self._strategy("pruning.density", "distribution", distribution)
        self.start: Moment = check_moment(who, "start", start)
        self.stop: Moment = check_moment(who, "stop", stop)
        self.interval = whole(who, "interval", interval, "the paper uses 1000 to 4000")
        self.regrowth = finite(who, "regrowth", regrowth, "the paper uses 0.5", minimum=0, maximum=0.99)
        self.seed = whole(who, "seed", seed, "any number from 0 on", minimum=0)
        self._prunes(include, exclude, empty)
        self._first, self._last, self._total = 0, 0, 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with masks on everything: all of them whole, or of the initial density."""
        super().on_fit_start(trainer, pl_module)
        if not self.masks and self.density < 1:
            parameters = self._prunable(pl_module)
            weights = {name: parameter.detach() for name, parameter in parameters.items()}
            masks = dense_masks(weights)
            if self.initial_density < 1:
                who = type(self).__name__
                keep = distributed(weights, self.initial_density, self.distribution, empty=self.empty, who=who)
                masks = random_masks(weights, keep, self.seed, who=who)
            self._install(masks)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out when."""
        if self.density == 1:
            return
        who = type(self).__name__
        total = total_updates(trainer)
        if total == float("inf"):
            raise UnsupportedSettingError(
                who,
                "a training of unknown length",
                "the fraction that moves falls over the whole of it",
                "set Trainer(max_steps=…), or use GradualPruning with start and stop in updates",
            )
        self._total = int(total)
        self._first, self._last = span_in_updates(who, self.start, self.stop, trainer)

    def _due(self, updates: int) -> bool:
        if self.density == 1:
            return False
        return updates == self._last or (
            self._first <= updates < self._total and (updates - self._first) % self.interval == 0
        )

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Have the gradients of pruned weights kept where they will be needed."""
        # For every micro-batch: a run may be resumed between those of one update, which is planned only once.
        if self._due(trainer.global_step + 1):
            self.masks.request_dense_gradients()

    @hookimpl
    def after_update(self, step: UpdateStep) -> None:
        """Prune along the schedule, then move connections."""
        updates = step.index + 1
        if not self._due(updates):
            return
        who = type(self).__name__
        progress = 1.0 if updates >= self._last else (updates - self._first) / (self._last - self._first)
        density = cubic(progress, self.initial_density, self.density)
        parameters = {name: p.detach() for name, p in step.module.named_parameters() if name in self.masks}
        gradients = dict(self.masks.dense_gradients)
        keep = min(self.masks.kept, round(density * self.masks.total))
        magnitudes = {name: weight.abs() for name, weight in parameters.items()}
        masks = global_masks(magnitudes, keep, dict(self.masks), empty=self.empty, who=who)
        numbers = moved(masks, cosine(self.regrowth, updates / self._total))
        # After an overflow, which skipped the update, there is no gradient to go by; a weight without one has none.
        usable = not step.skipped and gradients.keys() == masks.keys()
        if usable and any(numbers.values()):
            fewer = drop(masks, parameters, numbers, who=who)
            # Set in between: a weight that goes and comes back starts at zero, as any that grows.
            self.masks.set(fewer)
            masks = grow(fewer, gradients, numbers, who=who)
        self._install(masks)
        self.record("moved", float(sum(numbers.values()) if usable else 0))
