"""The second half of the contract: hooks a method or an observer may implement, called by the attachment.

Implement one by decorating a method of your `thunderstone.Method` with `thunderstone.hookimpl`. Methods are called in
the order in which they stand in `Trainer(callbacks=[...])`; pluggy's `tryfirst`, `trylast` and `wrapper=True` apply.
An implementation may leave out arguments it does not need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from thunderstone.markers import hookspec

if TYPE_CHECKING:
    from torch import Tensor

    from thunderstone.attachment.data_view import DataView
    from thunderstone.attachment.gradient_step import GradientStep, UpdatePlan, UpdateStep
    from thunderstone.attachment.loss_terms import LossStep
    from thunderstone.attachment.objective import ObjectiveStep
    from thunderstone.attachment.rounds import Round
    from thunderstone.tracking.records import Record


class AttachmentHooks:
    """Namespace of the hook specifications; never instantiated."""

    @hookspec
    def prepare_data(self, view: DataView) -> None:
        """Called for the training loader before it is iterated, once a loader, on every rank.

        A method that needs to know which samples a batch is made of calls `view.track_indices` here, one that trains
        on a few of them `view.subset`, and one that makes several steps of each batch `view.repeat`.
        """

    @hookspec
    def plan_update(self, plan: UpdatePlan) -> None:
        """Called before the first micro-batch of every update, on every rank.

        What an update must record can only be known before it begins: a method that will call `GradientStep.recompute`
        says so here with `plan.request_recompute()`.
        """

    @hookspec(firstresult=True)
    def compute_loss(self, step: ObjectiveStep) -> Tensor | Mapping[str, Any] | None:
        """Called in the place of the module's `training_step`, inside its graph and precision context; returns what it
        would return: a loss with its graph, or a mapping that has it as ``"loss"``. None leaves the step to the module.

        Only the method that declares ``exclusive = {"objective"}`` may implement it. What is returned is treated as the
        module's own: `loss_terms` of other methods are added, Lightning scales it for accumulation, and a second pass
        (`step.replay`) asks for it again under the same random state, where it is to be the same function of the
        weights.
        """

    @hookspec
    def loss_terms(self, step: LossStep) -> Mapping[str, Tensor] | None:
        """Called after every `training_step`, inside its graph and precision context; returns named extra losses.

        Each is a 0-d tensor, is added to the loss before Lightning scales it for accumulation, and is recorded as
        ``method/name``. Return None (or an empty mapping) to leave the loss alone, to the last bit. Called again, with
        `step.replay` set, when a method goes through the batch a second time. Not called when `training_step`
        returned None.
        """

    @hookspec
    def transform_gradients(self, step: GradientStep) -> None:
        """Called when the gradients of the whole accumulated batch are there and clipping has not run.

        Under a GradScaler they are still scaled (`step.loss_scale`). Read `step.gradients`, assign to it to replace
        them. Not called when every micro-batch's `training_step` returned None. With `step.rehearsal` set no update
        follows: transform as always, and keep nothing of it.
        """

    @hookspec
    def after_update(self, step: UpdateStep) -> None:
        """Called after the optimizer has stepped (or was skipped by a GradScaler: `step.skipped`)."""

    @hookspec(firstresult=True)
    def another_round(self, round: Round) -> bool | None:
        """Called when a training budget is used up (epochs, steps or time, or a callback asked to stop): True spends it
        again. On every rank; rank zero's answer holds. Nothing is to be changed here.

        Only the method that declares ``exclusive = {"rounds"}`` may implement it.
        """

    @hookspec
    def next_round(self, round: Round) -> None:
        """Called when a training budget is used up and another follows, on every rank.

        The module has the weights the round ended with; give it those the next begins with (`round.rewind()`, masks).
        Everything else is put back by the host afterwards: optimizers, schedules, counters, loaders, callbacks.
        """

    @hookspec
    def record(self, record: Record) -> None:
        """Called on rank zero for everything a method reports with `self.record`. Observers implement this."""
