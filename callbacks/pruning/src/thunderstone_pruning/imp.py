"""Iterative magnitude pruning with rewinding: lottery tickets."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

import thunderstone
from thunderstone import ArgumentError, Artifact, Round, hookimpl
from thunderstone.arguments import finite, one_of, whole
from thunderstone.errors import suggestion
from thunderstone_pruning.loss_gradients import loss_gradients
from thunderstone_pruning.mask_files import Ticket
from thunderstone_pruning.masks import Masks, count, global_masks, kept_after, layer_masks, refuse_empty
from thunderstone_pruning.moments import Moment, check_moment, in_updates
from thunderstone_pruning.pruning_method import PruningMethod, dense_masks
from thunderstone_pruning.scores import Candidates
from thunderstone_pruning.sparsity import sparsity_report


class IMP(PruningMethod):
    """Finds lottery tickets: trains, prunes a share of what is left, rewinds, and trains again, round after round.

    Round 0 is the dense run. After every round but the last, the fraction of the remaining weights with the smallest
    scores goes; what survives is put back to where it was at `rewind_step`, with the rest of the module's state, and
    the training is spent again with a fresh optimizer. Frankle & Carbin 2019, arXiv 1803.03635; late rewinding:
    Frankle, Dziugaite, Roy & Carbin 2019, arXiv 1903.01611. Cost: `rounds` further trainings (from `rewind_step` on).

    Args:
        rounds: How often to prune and train again; 0 switches the method off.
        fraction: Share of the remaining weights that goes each time, between 0 and 1. The paper uses 0.2.
        rewind_step: Where surviving weights go back to: updates (a whole number; 0 is initialisation), a share of
            training (``0.05``, ``"5%"``), or epochs (``"2 epochs"``).
        scope: ``"global"`` compares all weights, ``"layer"`` takes the fraction of each layer by itself.
        layer_fractions: With ``scope="layer"``, fractions of single layers, by patterns of their names, e.g.
            ``{"head": 0.1}``; the first that matches counts.
        score: A ``pruning.score`` strategy; with gradients, they are of one training batch at the trained weights.
        tickets: Folder for the tickets, below the run's own; each round's masks and the weights it begins with, for
            `FixedMask`. None writes none.
        seed: Of a score that draws.
        include: Patterns of what to prune; None is every weight of convolutions, linear and recurrent layers,
            embeddings and attention.
        exclude: Patterns of what not to prune.
        empty: Where a layer would lose its last weight: ``"refuse"`` raises, ``"keep_one"`` leaves it its best.

    Raises:
        ArgumentError: An argument is out of range, a pattern matches nothing or everything, a layer would be empty, or
            `rewind_step` lies beyond the training.
    """

    name: ClassVar[str] = "imp"
    exclusive: ClassVar[frozenset[str]] = frozenset({"masks", "rounds"})

    def __init__(
        self,
        rounds: int = 5,
        fraction: float = 0.2,
        rewind_step: int | float | str = 0,
        scope: str = "global",
        layer_fractions: dict[str, float] | None = None,
        score: str = "magnitude",
        tickets: str | None = "tickets",
        seed: int = 0,
        include: str | list[str] | None = None,
        exclude: str | list[str] | None = None,
        empty: str = "refuse",
    ) -> None:
        who = type(self).__name__
        self.rounds = whole(
            who, "rounds", rounds, "5 rounds of 0.2 leave a third; 0 switches the method off", minimum=0
        )
        self.fraction = _share(who, "fraction", fraction)
        self.rewind_step: Moment = check_moment(who, "rewind_step", rewind_step)
        self.scope = one_of(who, "scope", scope, ("global", "layer"))
        self.layer_fractions = _shares(who, layer_fractions, self.scope)
        self.score = self._strategy("pruning.score", "score", score)
        if tickets is not None and (not isinstance(tickets, str) or not tickets):
            raise ArgumentError(who, "tickets", tickets, "it must name a folder", "pass a path, or None to write none")
        self.tickets = tickets
        self.seed = whole(who, "seed", seed, "any number from 0 on", minimum=0)
        self._prunes(include, exclude, empty)
        self._mark_at = 0
        self._marked = False

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how many rounds there will be, for whoever watches."""
        self.attachment.rounds.last = self.rounds

    # -- the place to rewind to ----------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at everything that could be wrong, before hours of training."""
        if self.rounds == 0:
            return
        self._layer_fractions(self._prunable(pl_module))
        self._mark_at = in_updates(type(self).__name__, "rewind_step", self.rewind_step, trainer)
        if self.attachment.rounds.index == 0 and trainer.global_step == 0:
            self._marked = False

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Take down the state that later rounds begin with."""
        if self._marked or not self._mark_at or trainer.global_step < self._mark_at:
            return
        if self.attachment.rounds.index == 0:
            self.attachment.rounds.mark()
            self._marked = True

    # -- rounds --------------------------------------------------------------------------------------------------------

    @hookimpl
    def another_round(self, round: Round) -> bool:
        """Until as many rounds are done as were asked for."""
        return round.index < self.rounds

    @hookimpl
    def next_round(self, round: Round) -> None:
        """Prune the trained weights, rewind what is left."""
        masks = self._pruned(round)
        round.rewind()
        self._install(masks)
        self.attachment.rounds.annotate(remaining=self.masks.density)
        self._save(round)

    def _pruned(self, round: Round) -> Masks:
        who = type(self).__name__
        parameters = self._prunable(round.module)
        weights = {name: parameter.detach() for name, parameter in parameters.items()}
        before = dict(self.masks) or dense_masks(weights)
        candidates = Candidates(
            weights,
            lambda: loss_gradients(self, round.trainer, round.module, parameters, occasion=round.index),
            torch.Generator().manual_seed(self.seed + round.index),
        )
        scores = thunderstone.strategy("pruning.score", self.score)(candidates)
        kept = {name: count(mask) for name, mask in before.items()}
        if self.scope == "global":
            keep = kept_after(sum(kept.values()), self.fraction)
            return global_masks(scores, keep, before, empty=self.empty, who=who)
        fractions = self._layer_fractions(parameters)
        counts = {name: kept_after(kept[name], fractions[name]) for name in kept}
        emptied = [name for name in counts if kept[name] and not counts[name]]
        if emptied and self.empty == "refuse":
            refuse_empty(who, emptied)
        return layer_masks(scores, {**counts, **dict.fromkeys(emptied, 1)}, before, who=who)

    def _layer_fractions(self, parameters: Mapping[str, Tensor]) -> dict[str, float]:
        chosen: dict[str, float] = {}
        for pattern, fraction in (self.layer_fractions or {}).items():
            found = [n for n in parameters if fnmatchcase(n, pattern) or fnmatchcase(n.rpartition(".")[0], pattern)]
            if not found:
                hint = suggestion(pattern, parameters)
                raise ArgumentError(type(self).__name__, "layer_fractions", pattern, "it matches nothing pruned", hint)
            chosen = {**dict.fromkeys(found, fraction), **chosen}
        return {name: chosen.get(name, self.fraction) for name in parameters}

    def _save(self, round: Round) -> None:
        # Asked for on every process: with some loggers the folder's name is agreed on.
        folder = round.trainer.log_dir or round.trainer.default_root_dir
        if self.tickets is None or not round.trainer.is_global_zero:
            return
        number = round.index + 1
        summary = sparsity_report(round.module, masks=self.masks).summary()
        metadata = {"round": number, "rewind_step": self._mark_at, **summary}
        path = Ticket(self.masks, round.weights, metadata).save(Path(folder) / self.tickets / f"round-{number}.ckpt")
        self.record("ticket", Artifact(path, "ticket", {"round": number, "density": summary["density"]}))

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Masks and rounds, and whether the place to rewind to has been passed."""
        return {**super().state_dict(), "marked": self._marked}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state."""
        super().load_state_dict(state_dict)
        self._marked = state_dict.get("marked", False)


def _share(who: str, argument: str, value: object) -> float:
    share = finite(who, argument, value, "the paper uses 0.2", above=0)
    if share >= 1:
        raise ArgumentError(who, argument, value, "it must be below 1, or nothing is left", "the paper uses 0.2")
    return share


def _shares(who: str, value: object, scope: str) -> dict[str, float] | None:
    if value is None:
        return None
    hint = "pass fractions by pattern, e.g. {'head': 0.1}"
    if not isinstance(value, Mapping) or not all(isinstance(pattern, str) for pattern in value):
        raise ArgumentError(who, "layer_fractions", value, "it must be a mapping of names to fractions", hint)
    if scope != "layer":
        raise ArgumentError(who, "layer_fractions", value, "layers have fractions with scope='layer' only", hint)
    return {pattern: _share(who, f"layer_fractions[{pattern!r}]", share) for pattern, share in value.items()}
