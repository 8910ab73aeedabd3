"""What the attached methods would make of an update's gradients, without the update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thunderstone.attachment.gradient_step import Gradients, GradientStep
from thunderstone.attachment.strategies import hand_out_buffers, hands_out_buffers
from thunderstone.attachment.window import MicroBatch, UpdatePlan, Window

if TYPE_CHECKING:
    from thunderstone.attachment.attachment import Attachment
    from thunderstone.attachment.method import Method


@dataclass(frozen=True)
class Rehearsal:
    """The gradients of an update that was not made, averaged over replicas and not multiplied by a loss scale.

    Attributes:
        names: Names of the optimizer's parameters that require a gradient.
        before: Their gradients as they came from the loss (other methods' loss terms included); None where a parameter
            has none.
        after: What the methods' `transform_gradients` made of them; the very list `before` where no other method
            implements it. Clipping, which comes later, is not part of it.
        losses: How many of the micro-batches gave a loss.
    """

    names: list[str]
    before: Gradients
    after: Gradients
    losses: int


def rehearse(attachment: Attachment, batches: Sequence[MicroBatch], without: Method) -> Rehearsal:
    """See `Attachment.rehearse`."""
    hooks, optimizer = attachment.manager, attachment.trainer.optimizers[0]
    plan = UpdatePlan(attachment.trainer.global_step)
    others = [method for method in attachment.methods if method is not without]
    transforming = any(
        caller.name == "transform_gradients" for method in others for caller in hooks.get_hookcallers(method) or ()
    )
    sends_buffers = hands_out_buffers(attachment.trainer)
    window = Window(plan, attachment.trainer.current_epoch, list(batches), sends_buffers)
    with attachment.off_the_record(), _attributes_kept(others):
        hooks.subset_hook_caller("plan_update", [without])(plan=plan)
        # Recorded in any case: the first pass is one over the recorded batches too.
        plan.recompute = True
        step = attachment.gradient_step(optimizer, plan, window, rehearsal=True)
        try:
            first = step.recompute(sync=step.synchronised)
            losses = step.losses
            # Masked before the hooks, as in an update, and after them.
            if attachment.enforcement is not None:
                attachment.enforcement.mask_apart(step.parameters, first)
            if not transforming:
                before = after = _unscaled(step, first if step.synchronised else step.averaged(first))
            else:
                # A method may change the tensors it is shown, or hand them on.
                before = _unscaled(step, step.averaged(first) if not step.synchronised else _copies(first))
                with _gradients_kept(step):
                    step.gradients = first
                    hooks.subset_hook_caller("transform_gradients", [without])(step=step)
                    step.synchronise()
                    if attachment.enforcement is not None:
                        attachment.enforcement.mask_apart(step.parameters, step.gradients)
                    after = _unscaled(step, step.gradients)
        finally:
            hand_out_buffers(attachment.trainer, sends_buffers)
    return Rehearsal(step.names, before, after, losses)


def _unscaled(step: GradientStep, gradients: Gradients) -> Gradients:
    return [None if gradient is None else step.unscaled(gradient) for gradient in gradients]


def _copies(gradients: Gradients) -> Gradients:
    return [None if gradient is None else gradient.clone() for gradient in gradients]


@contextmanager
def _gradients_kept(step: GradientStep) -> Iterator[None]:
    inside = step.module.parameters()
    everything = list({id(p): p for p in (*inside, *step.parameters)}.values())
    kept = [parameter.grad for parameter in everything]
    try:
        yield
    finally:
        for parameter, gradient in zip(everything, kept, strict=True):
            parameter.grad = gradient


@contextmanager
def _attributes_kept(methods: Sequence[Method]) -> Iterator[None]:
    """What a method assigns to its attributes inside is undone; what it changes in place it has to leave alone."""
    kept = [(vars(method), dict(vars(method))) for method in methods]
    try:
        yield
    finally:
        for attributes, before in kept:
            attributes.clear()
            attributes.update(before)
