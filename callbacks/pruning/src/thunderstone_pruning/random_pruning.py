"""Random pruning at initialisation."""

from __future__ import annotations

from typing import ClassVar

from lightning.pytorch import LightningModule, Trainer

from thunderstone import ArgumentError
from thunderstone.arguments import whole
from thunderstone_pruning.densities import densities_of, layer_counts
from thunderstone_pruning.mask_files import load_ticket
from thunderstone_pruning.masks import Masks
from thunderstone_pruning.pruning_method import PruningMethod
from thunderstone_pruning.random_masks import distributed, random_masks


class RandomPruning(PruningMethod):
    """Trains a network of which a random part was removed before the first step.

    Which weights stay is drawn; how many stay in each layer is exact. Liu et al. 2022, arXiv 2202.02643: with the right
    densities by layer, random pruning is a strong baseline. Cost: none beyond the masks.

    Args:
        density: Share of the prunable weights that stays, above 0 and at most 1; 1 switches the method off. None is
            0.1, or what `like` says.
        distribution: How the density is shared out among layers: a ``pruning.density`` strategy, ``"uniform"`` or
            ``"erk"`` among them.
        like: A file of masks (a ticket, a checkpoint of a run with another pruning method) whose number of weights in
            each layer is taken, in place of `density` and `distribution`.
        seed: Of the drawing, which has a generator of its own.
        include: Patterns of what to prune; None is every weight of convolutions, linear and recurrent layers,
            embeddings and attention.
        exclude: Patterns of what not to prune.
        empty: Where a layer would lose its last weight: ``"refuse"`` raises, ``"keep_one"`` leaves it one.

    Raises:
        ArgumentError: An argument is out of range, a pattern matches nothing or everything, or a layer would be empty.
    """

    name: ClassVar[str] = "random_pruning"

    def __init__(
        self,
        density: float | None = None,
        distribution: str = "uniform",
        like: str | None = None,
        seed: int = 0,
        include: str | list[str] | None = None,
        exclude: str | list[str] | None = None,
        empty: str = "refuse",
    ) -> None:
        who = type(self).__name__
        self.density = None if density is None else self._density("density", density)
        self.distribution = self._strategy("pruning.density", "distribution", distribution)
        if like is not None and not isinstance(like, str):
            raise ArgumentError(who, "like", like, f"it must be a path, not {type(like).__name__}", "name a file")
        if like is not None and density is not None:
            raise ArgumentError(who, "density", density, "like= says how many weights stay", "leave one of them out")
        self.like = like
        self.seed = whole(who, "seed", seed, "any number from 0 on", minimum=0)
        self._prunes(include, exclude, empty)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune, unless masks are there already (of a checkpoint, or of a fit of this module before)."""
        super().on_fit_start(trainer, pl_module)
        if not self.masks and self.density != 1:
            self._install(self._draw(pl_module))

    def _draw(self, module: LightningModule) -> Masks:
        who = type(self).__name__
        if self.like is not None:
            given = self.masks.check(module, load_ticket(self.like, who=who, argument="like").masks)
            weights = {name: parameter for name, parameter in module.named_parameters() if name in given}
            sizes = {name: weight.numel() for name, weight in weights.items()}
            keep = layer_counts(densities_of(given), sizes, empty=self.empty, who=who)
        else:
            weights = self._prunable(module)
            density = 0.1 if self.density is None else self.density
            keep = distributed(weights, density, self.distribution, empty=self.empty, who=who)
        return random_masks(weights, keep, self.seed, who=who)
