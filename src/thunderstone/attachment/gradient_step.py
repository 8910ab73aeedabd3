"""What a method is handed at an update: the gradients, and ways to look elsewhere and come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from thunderstone.attachment.window import MicroBatch, UpdatePlan
from thunderstone.errors import StepError
from thunderstone.tensor_lists import add_into, copy_into, local, total_norm

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from thunderstone.attachment.loss_terms import LossStep

__all__ = ["GradientStep", "Gradients", "UpdatePlan", "UpdateStep"]

Gradients = list[Tensor | None]
Objective = Callable[["LossStep"], Tensor]


class GradientStep:
    """The gradients of one accumulated batch, before clipping and the optimizer.

    Lists run parallel to `parameters`; an entry is None where a parameter has no gradient. Under a GradScaler all
    gradients are multiplied by `loss_scale`.

    Args:
        optimizer: The optimizer about to step; its parameters that require a gradient are `parameters`.
        module: The module that owns the parameters; gives them their names.
        index: Number of the update, like `trainer.global_step`.
        recompute: Accumulates gradients at the current weights into `.grad`; takes whether to average over replicas,
            and an objective or None, and returns how many micro-batches gave a loss. None when nothing was recorded.
        scaler: The run's GradScaler, if it has one.
        synchronised: Whether the gradients are already averaged over replicas. A method that asked for local
            gradients and leaves averaged ones (of a `recompute`) sets it; otherwise the attachment averages them.
        replicas: Number of data-parallel replicas.
        aliased: Gradients are views into buckets that the next pass overwrites (DDP's `gradient_as_bucket_view`).
        shard_group: Process group over which plain parameters are sharded (FSDP1); None when they are whole or
            DTensors.
        micro_batches: What the update is made of, where it was recorded; see `Attachment.rehearse`.
        rehearsal: No update follows: some method only wants to know what would be done with these gradients. The
            step is to be transformed as in an update, and nothing of it is to be kept.

    Attributes:
        losses: How many micro-batches gave a loss in the last `recompute`; 0 before it. Their mean losses are divided
            by `accumulate_grad_batches` and added, so the last update of an epoch may be smaller than the others.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        module: nn.Module,
        *,
        index: int = 0,
        recompute: Callable[[bool, Objective | None], int] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        synchronised: bool = True,
        replicas: int = 1,
        aliased: bool = False,
        shard_group: dist.ProcessGroup | None = None,
        micro_batches: Sequence[MicroBatch] = (),
        rehearsal: bool = False,
    ) -> None:
        self.micro_batches = tuple(micro_batches)
        self.rehearsal = rehearsal
        self.losses = 0
        self.optimizer = optimizer
        self.module = module
        self.index = index
        self.synchronised = synchronised
        self.replicas = replicas
        self._recompute = recompute
        self._scaler = scaler
        self._aliased = aliased
        self._shard_group = shard_group
        self.parameters: list[nn.Parameter] = []
        self.groups: list[dict[str, Any]] = []
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    self.parameters.append(parameter)
                    self.groups.append(group)

    @cached_property
    def names(self) -> list[str]:
        """The parameters' names in the module; found when asked for, since that walks through the whole module."""
        names = {
            id(parameter): f"group{number}.{position}"
            for number, group in enumerate(self.optimizer.param_groups)
            for position, parameter in enumerate(group["params"])
        }
        names.update((id(parameter), name) for name, parameter in self.module.named_parameters())
        return [names[id(parameter)] for parameter in self.parameters]

    @property
    def loss_scale(self) -> float:
        """What losses are multiplied by before backward; reading it waits for the device."""
        return 1.0 if self._scaler is None else self._scaler.get_scale()

    def unscaled(self, value: Tensor) -> Tensor:
        """`value` divided by `loss_scale`, without waiting for the device."""
        return value if self._scaler is None else value / self._scaler.scale(torch.ones_like(value))

    @property
    def gradients(self) -> Gradients:
        """The current gradients, which the optimizer will see unless they are replaced."""
        return [parameter.grad for parameter in self.parameters]

    @gradients.setter
    def gradients(self, values: Sequence[Tensor | None]) -> None:
        self._check_length("gradients", values)
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.grad = value

    def take_gradients(self) -> Gradients:
        """The current gradients, handed over: `.grad` is None afterwards.

        For a method that does not need the first gradients any more: their memory is free once it drops the list.
        """
        taken = self._owned(self.gradients)
        self.gradients = [None] * len(taken)
        return taken

    def recompute(self, sync: bool = True, objective: Objective | None = None) -> Gradients:
        """Gradients of the same accumulated batch at the current weights; `step.gradients` stays as it is.

        The pass is invisible: same batches, same random state, and running statistics, metrics, logs, counters and
        hooks see nothing of it. Read `step.gradients` anew afterwards: with DDP's `gradient_as_bucket_view` the tensors
        of a list taken before are overwritten.

        Args:
            sync: Average over data-parallel replicas. False gives each replica's own.
            objective: What to differentiate in place of the loss: takes the `LossStep` of each micro-batch and returns
                a 0-d tensor, which is scaled and accumulated as a loss would be.

        Raises:
            StepError: The update was not planned to be recorded (`plan.request_recompute()` in `plan_update`).
        """
        if self._recompute is None:
            raise StepError(
                "recompute was called in an update that was not recorded. HINT: implement plan_update(plan) and call "
                "plan.request_recompute() for the updates that need a second pass"
            )
        # Parameters outside the optimizer are set aside too: nothing would clear what a second pass adds to them.
        everything = list({id(p): p for p in (*self.module.parameters(), *self.parameters)}.values())
        kept = self._owned([parameter.grad for parameter in everything])
        for parameter in everything:
            parameter.grad = None
        try:
            # An objective need not reach every parameter, which DDP's reducer would wait for: average by hand.
            by_hand = objective is not None and sync and self.replicas > 1
            self.losses = self._recompute(sync and not by_hand, objective)
            gradients = self._owned(self.gradients)
            return self.averaged(gradients) if by_hand else gradients
        finally:
            for parameter, gradient in zip(everything, kept, strict=True):
                parameter.grad = gradient

    @contextmanager
    def perturbed(self, delta: Sequence[Tensor | None]) -> Iterator[None]:
        """``parameters + delta`` inside, the very same bits as before afterwards, also after an exception.

        Weights are cloned and copied back: adding and subtracting drifts, and replicas drift apart.

        Args:
            delta: Parallel to `parameters`; None leaves a parameter alone.
        """
        self._check_length("delta", delta)
        moved = [(p, d) for p, d in zip(self.parameters, delta, strict=True) if d is not None]
        targets = [parameter for parameter, _ in moved]
        with _put_back_afterwards(targets):
            add_into(targets, [step for _, step in moved])
            # The direction is as large as the weights; a caller that passed it as an expression gets the memory back.
            del moved, delta
            yield

    @contextmanager
    def moved_to(self, values: Sequence[Tensor | None]) -> Iterator[None]:
        """The very bits of `values` for weights inside, those from before afterwards, also after an exception.

        Args:
            values: Parallel to `parameters`, of the same shapes; None leaves a parameter where it is.
        """
        self._check_length("values", values)
        moved = [(p, value) for p, value in zip(self.parameters, values, strict=True) if value is not None]
        targets = [parameter for parameter, _ in moved]
        with _put_back_afterwards(targets):
            copy_into(targets, [value for _, value in moved])
            yield

    def norm(self, tensors: Sequence[Tensor | None] | None = None) -> Tensor:
        """L2 norm over all entries together (default: the gradients), reduced over shards; 0-d tensor."""
        return total_norm(self.gradients if tensors is None else tensors, self._shard_group)

    def overflowed(self, tensors: Sequence[Tensor | None] | None = None) -> bool:
        """Whether these gradients (default: the current ones) overflowed, so that a GradScaler will skip the step.

        Always False without a scaler; with one it waits for the device, as the scaler is about to.
        """
        return self._scaler is not None and not bool(self.norm(tensors).isfinite())

    def synchronise(self) -> None:
        """Average gradients that are still each replica's own. Called by the attachment after the last hook."""
        if self.synchronised or self.replicas == 1:
            return
        self.gradients = self.averaged(self.gradients)
        self.synchronised = True

    def averaged(self, gradients: Gradients) -> Gradients:
        """New tensors: each replica's own gradients averaged over the replicas. To be called on all of them."""
        if not self.parameters or self.replicas == 1:
            return [None if gradient is None else gradient.clone() for gradient in gradients]
        # A parameter without a gradient here may have one on another replica: everyone takes part for those of anyone.
        flags = [float(gradient is not None) for gradient in gradients]
        present = torch.tensor(flags, device=self.parameters[0].device)
        dist.all_reduce(present)
        totals: list[Tensor] = []
        averaged: Gradients = []
        for parameter, gradient, replicas in zip(self.parameters, gradients, present.tolist(), strict=True):
            if replicas:
                totals.append(torch.zeros_like(parameter) if gradient is None else gradient.clone())
            averaged.append(totals[-1] if replicas else None)
        for work in [dist.all_reduce(total, async_op=True) for total in totals]:
            work.wait()
        for total in totals:
            total.div_(self.replicas)
        return averaged

    def _owned(self, gradients: Gradients) -> Gradients:
        if not self._aliased:
            return gradients
        return [None if gradient is None else gradient.clone() for gradient in gradients]

    def _check_length(self, what: str, values: Sequence[Tensor | None]) -> None:
        if len(values) != len(self.parameters):
            raise StepError(
                f"{what} has {len(values)} entries for {len(self.parameters)} parameters. HINT: give one entry for "
                "each of step.parameters, None where there is nothing"
            )


@contextmanager
def _put_back_afterwards(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    with torch.no_grad():
        saved = [local(parameter).clone() for parameter in parameters]
    try:
        yield
    finally:
        copy_into(parameters, saved)


@dataclass(frozen=True)
class UpdateStep:
    """An update that is done; handed to `after_update`.

    Attributes:
        trainer: The running Trainer.
        module: The LightningModule.
        optimizer: The optimizer that stepped.
        index: Number of the update, counted from 0.
        skipped: A GradScaler found an overflow and the weights did not move.
    """

    trainer: Trainer
    module: LightningModule
    optimizer: Optimizer
    index: int
    skipped: bool
