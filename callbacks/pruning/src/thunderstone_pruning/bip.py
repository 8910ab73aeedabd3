"""Bi-level pruning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from thunderstone import GradientStep, UpdatePlan, hookimpl
from thunderstone.arguments import finite, whole
from thunderstone_pruning.mask_gradient import mask_gradient
from thunderstone_pruning.masks import Masks, global_masks
from thunderstone_pruning.moments import Moment, check_moment, in_updates
from thunderstone_pruning.pruning_method import PruningMethod, refuse_manual_optimization

Tensors = dict[str, Tensor]


class BiP(PruningMethod):
    """Learns which weights to keep while it trains them: an update of the mask, an update of the weights, in turns.

    Every prunable weight has a score; the `density` with the largest scores are kept. An update first moves the scores
    along the gradient of the loss with respect to the mask, in which the answer of the weights to the mask is taken
    into account (see `mask_gradient`), and then gives the optimizer the gradient under the new mask. Each update of the
    mask is on a batch that the weights have not seen yet. What is pruned keeps the value it had, out of the module, and
    comes back with it. Zhang, Yao, Ram, Zhao, Chen, Hong, Wang & Liu 2022, arXiv 2210.04092, algorithm 1. Cost: a
    second forward and backward pass on updates that change the mask, one selection of the largest scores on every
    update, and three numbers for each prunable weight.

    The lower level is the module's own optimizer, so its weight decay is the paper's ridge penalty there.

    Args:
        density: Share of the prunable weights that is kept, above 0 and at most 1; 1 switches the method off.
        mask_lr: Learning rate of the scores, above 0. The paper uses 0.1.
        mask_momentum: Their momentum, from 0 to below 1. The paper uses 0.9.
        mask_weight_decay: Their weight decay, 0 or more. The paper uses 1e-4.
        inverse_gamma: 1 / gamma of the lower level, 0 or more: weight of the implicit part of the mask's gradient. The
            paper uses 1e-4; 0 leaves it out.
        interval: Change the mask on every interval-th update only. The paper does on every one.
        stop: When the mask stays as it is: updates (a whole number), a share of training (between 0 and 1), or epochs
            (``"2 epochs"``). None: never.
        include: Patterns of what to prune; None is every weight of convolutions, linear and recurrent layers,
            embeddings and attention.
        exclude: Patterns of what not to prune.
        empty: Where a layer would lose its last weight: ``"keep_one"`` leaves it its best, ``"refuse"`` raises, which
            in the middle of training ends the run.

    Raises:
        ArgumentError: An argument is out of range, a pattern matches nothing or everything, or a layer would be empty.
        UnsupportedSettingError: The module optimizes manually.
    """

    name: ClassVar[str] = "bip"

    def __init__(
        self,
        density: float = 0.1,
        mask_lr: float = 0.1,
        mask_momentum: float = 0.9,
        mask_weight_decay: float = 1e-4,
        inverse_gamma: float = 1e-4,
        interval: int = 1,
        stop: int | float | str | None = None,
        include: str | list[str] | None = None,
        exclude: str | list[str] | None = None,
        empty: str = "keep_one",
    ) -> None:
        who = type(self).__name__
        self.density = self._density("density", density)
        self.mask_lr = finite(who, "mask_lr", mask_lr, "the paper uses 0.1", above=0)
        self.mask_momentum = finite(
            who, "mask_momentum", mask_momentum, "the paper uses 0.9", minimum=0, maximum=0.9999
        )
        self.mask_weight_decay = finite(who, "mask_weight_decay", mask_weight_decay, "the paper uses 1e-4", minimum=0)
        self.inverse_gamma = finite(who, "inverse_gamma", inverse_gamma, "the paper uses 1e-4", minimum=0)
        self.interval = whole(who, "interval", interval, "1 changes the mask on every update, 10 on every tenth")
        self.stop: Moment | None = None if stop is None else check_moment(who, "stop", stop)
        self._prunes(include, exclude, empty)
        self._last = -1
        self._weights: Tensors = {}
        self._scores: Tensors = {}
        self._velocities: Tensors = {}

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse early what cannot work."""
        if self.density < 1:
            refuse_manual_optimization(type(self).__name__, pl_module, "gradients", "use GradualPruning")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the largest weights, unless masks are there already (of a checkpoint, or of a fit before)."""
        super().on_fit_start(trainer, pl_module)
        if self.density == 1:
            return
        parameters = dict(pl_module.named_parameters())
        if self.masks:
            for kept in (self._weights, self._scores, self._velocities):
                kept.update({name: tensor.to(parameters[name].device) for name, tensor in kept.items()})
            return
        weights = {name: parameter.detach().clone() for name, parameter in self._prunable(pl_module).items()}
        scores = {name: weight.abs() for name, weight in weights.items()}
        masks = self._chosen(scores)
        self._weights, self._scores = weights, scores
        self._velocities = {name: torch.zeros_like(score) for name, score in scores.items()}
        self._install(masks)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out when to stop."""
        self._last = -1 if self.stop is None else in_updates(type(self).__name__, "stop", self.stop, trainer)

    def _acts(self, index: int) -> bool:
        return self.density < 1 and index % self.interval == 0 and (self._last < 0 or index < self._last)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Have the gradients of pruned weights kept where the mask is to change."""
        # For every micro-batch: a run may be resumed between those of one update, which is planned only once.
        if self._acts(trainer.global_step):
            self.masks.request_dense_gradients()

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        """Have the batch recorded for the gradient under the new mask."""
        if self._acts(plan.index):
            plan.request_recompute()

    # Before methods that transform the gradient: theirs is to be of the weights under the new mask.
    @hookimpl(tryfirst=True)
    def transform_gradients(self, step: GradientStep) -> None:
        """Move the scores; where that changes the mask, move to it and replace the gradients by those there."""
        if not self._acts(step.index):
            return
        names = [name if name in self.masks else None for name in step.names]
        before = dict(self.masks)
        gradients = self._dense_gradients(step, names)
        if not all(bool(gradient.isfinite().all()) for gradient in gradients.values()):
            # The update is lost or skipped; a score that is not a number would outlive it.
            return
        weights = {
            name: torch.where(before[name], parameter.detach(), self._weights[name])
            for name, parameter in zip(names, step.parameters, strict=True)
            if name is not None
        }
        scores, velocities = self._moved(weights, gradients, before)
        masks = self._chosen(scores)
        changed = sum(int((masks[name] != before[name]).sum()) for name in masks)
        if changed:
            values = [None if name is None else torch.where(masks[name], weights[name], 0.0) for name in names]
            # Moved for the pass only: an exception in it leaves the weights of the last update.
            with step.moved_to(values):
                under = step.recompute()
            step.gradients = [
                gradient
                if name is None or gradient is None or gradient.is_sparse
                else torch.where(masks[name], gradient, 0.0)
                for name, gradient in zip(names, under, strict=True)
            ]
            step.synchronised = True
        if step.rehearsal:
            return
        self._scores, self._velocities = scores, velocities
        if changed:
            self._weights = {**self._weights, **weights}
            self._install(masks)
            with torch.no_grad():
                for parameter, value in zip(step.parameters, values, strict=True):
                    if value is not None:
                        parameter.copy_(value)
        self.record("changed", float(changed))

    def _dense_gradients(self, step: GradientStep, names: list[str | None]) -> Tensors:
        """The gradients of the loss in all prunable weights, without the loss scale, averaged over replicas."""
        # Nothing keeps them in a rehearsal: another pass has them.
        found = dict(zip(names, step.recompute(), strict=True)) if step.rehearsal else dict(self.masks.dense_gradients)
        listed: list[Tensor | None] = [None if name is None else found.get(name) for name in names]
        if not step.rehearsal and not step.synchronised:
            listed = step.averaged(listed)
        return {
            name: step.unscaled(gradient.to_dense() if gradient.is_sparse else gradient)
            for name, gradient in zip(names, listed, strict=True)
            if name is not None and gradient is not None
        }

    def _moved(self, weights: Tensors, gradients: Tensors, masks: Mapping[str, Tensor]) -> tuple[Tensors, Tensors]:
        """Scores and velocities after a step of gradient descent with momentum; straight through the selection."""
        scores, velocities = dict(self._scores), dict(self._velocities)
        for name, gradient in gradients.items():
            slope = mask_gradient(weights[name], gradient, masks[name], self.inverse_gamma)
            slope = slope.add_(scores[name], alpha=self.mask_weight_decay)
            velocities[name] = self.mask_momentum * velocities[name] + slope
            scores[name] = scores[name] - self.mask_lr * velocities[name]
        return scores, velocities

    def _chosen(self, scores: Tensors) -> Masks:
        keep = round(self.density * sum(score.numel() for score in scores.values()))
        return global_masks(scores, keep, empty=self.empty, who=type(self).__name__)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Masks; scores and their momentum; the values of all prunable weights, as far as they are pruned."""
        kept = {"weights": self._weights, "scores": self._scores, "velocities": self._velocities}
        return {**super().state_dict(), **{key: dict(tensors) for key, tensors in kept.items() if tensors}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state."""
        super().load_state_dict(state_dict)
        self._weights = dict(state_dict.get("weights", {}))
        self._scores = dict(state_dict.get("scores", {}))
        self._velocities = dict(state_dict.get("velocities", {}))
