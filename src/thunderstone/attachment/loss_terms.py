"""Named extra losses, added to what `training_step` returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from thunderstone.attachment.outputs import Call, OutputCapture
from thunderstone.attachment.replay import loss_of
from thunderstone.errors import StepError

if TYPE_CHECKING:
    import pluggy

    from thunderstone.attachment.method import Method

Terms = Mapping[str, Tensor]


@dataclass(frozen=True)
class LossStep:
    """One call of `training_step` whose loss may be added to; handed to `loss_terms`.

    Attributes:
        trainer: The running Trainer.
        module: The LightningModule.
        batch: The batch as `training_step` got it.
        loss: The loss it returned, with its graph, before accumulation scaling.
        index: Number of the update this micro-batch belongs to, like `trainer.global_step`.
        batch_number: Number of this micro-batch since training began, from 0; the same in a second pass over it and
            after a resume. A method that draws random numbers of its own seeds them with it.
        replay: This is a second pass over the same micro-batch (some method recomputes gradients): the terms are
            wanted, what a method keeps of a batch is not to be changed.
        indices: Position in the training dataset of every sample of the batch, int64 of shape (batch size,), on the
            CPU; None unless a method asked for them in `prepare_data`.
    """

    trainer: Trainer
    module: LightningModule
    batch: Any
    loss: Tensor
    index: int
    batch_number: int
    replay: bool
    indices: Tensor | None
    _again: Callable[[], Any]

    def call(self, capture: OutputCapture) -> Call:
        """The captured module's call that counts in this step.

        Raises:
            StepError: The module was not called, or not that often; the message names submodules that were.
        """
        chosen = capture.chosen()
        if chosen is not None:
            return chosen
        if capture.times:
            raise StepError(
                f"{capture.method}: call={capture.call} of {capture.described} was asked for, but it is called "
                f"{capture.times} times in this training step. HINT: use call=0 … call={capture.times - 1}, or -1"
            )
        called = _called_modules(self.module, self._again, capture.redirected)
        if capture.name in called:
            raise StepError(
                f"{capture.method}: {capture.described} is called in training_step, by code that torch.compile made in "
                "an earlier fit and that does not look for hooks. HINT: call torch.compiler.reset() before this fit"
            )
        names = [name for name in called if name]
        raise StepError(
            f"{capture.method}: {capture.described} was not called in training_step, so there is no output to "
            f"capture. Called in this step: {', '.join(called[name] for name in names) or 'no submodule'}. HINT: name "
            f"one of them, e.g. output={(names[-1] if names else 'head')!r}"
        )

    def output(self, capture: OutputCapture) -> Tensor:
        """The captured tensor of this step, with its graph. Raises StepError as `call` does."""
        return capture.tensor(self.call(capture).output)


class LossTerms:
    """Collects the terms of all methods and adds them to the loss.

    Args:
        manager: The attachment's plug-in manager.
        methods: The attached methods, in order.
    """

    def __init__(self, manager: pluggy.PluginManager, methods: list[Method]) -> None:
        self.captures: list[OutputCapture] = []
        implementing = {id(implementation.plugin) for implementation in manager.hook.loss_terms.get_hookimpls()}
        # One caller a method, so that a term can be logged under the name of the method it came from.
        self._callers = [
            (method, manager.subset_hook_caller("loss_terms", [other for other in methods if other is not method]))
            for method in methods
            if id(method) in implementing
        ]

    def __bool__(self) -> bool:
        return bool(self._callers)

    def run(
        self,
        training_step: Callable[[], Any],
        make_step: Callable[[Tensor], LossStep],
        context: Callable[[], AbstractContextManager[None]],
        objective: Callable[[LossStep], Tensor] | None = None,
    ) -> Any:
        """Run `training_step` and add the terms to the loss in what it returns (a tensor, a mapping, or None).

        Args:
            training_step: The strategy's own, with its arguments bound.
            make_step: Builds the step object from the loss.
            context: Makes the precision plug-in's context manager.
            objective: Replaces loss and terms alike.
        """
        for capture in self.captures:
            capture.begin()
        try:
            result = training_step()
            for capture in self.captures:
                capture.end()
            loss = loss_of(result)
            if loss is None:
                return result
            step = make_step(loss)
            with context():
                total = self._add(loss, step) if objective is None else objective(step)
        finally:
            for capture in self.captures:
                capture.drop()
        if total is loss:
            return result
        return {**result, "loss": total} if isinstance(result, Mapping) else total

    def _add(self, loss: Tensor, step: LossStep) -> Tensor:
        total = loss
        for method, caller in self._callers:
            for terms in caller(step=step):
                _check_terms(method, terms)
                for name, term in terms.items():
                    _check_term(method, name, term)
                    if not step.replay:
                        method.record(name, term.detach())
                    total = total + term.to(loss.device)
        return total


def _check_terms(method: Method, terms: object) -> None:
    if not isinstance(terms, Mapping):
        raise StepError(
            f"{type(method).__name__}: loss_terms returned {_described(terms)}, where a mapping of names to 0-d "
            "tensors is expected. HINT: return {'term': loss.mean()}, or None where there is none"
        )


def _described(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _check_term(method: Method, name: object, term: object) -> None:
    if not isinstance(name, str) or not isinstance(term, Tensor) or term.numel() != 1 or term.dim() > 0:
        raise StepError(
            f"{type(method).__name__}: loss_terms returned {name!r}: {_described(term)}, where a name and a 0-d tensor "
            "are expected. HINT: return {'term': loss.mean()}"
        )


def _called_modules(module: LightningModule, again: Callable[[], Any], redirected: bool) -> dict[str, str]:
    """By name, how each module one more run of the step calls is shown; the run is about to fail anyway."""
    called: dict[str, str] = {}
    own = 0

    def note(name: str) -> Callable[..., None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            nonlocal own
            own += not name
            called[name] = f"{name} {tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__}"

        return hook

    handles = [child.register_forward_hook(note(name)) for name, child in module.named_modules()]
    try:
        with torch.no_grad():
            again()
    finally:
        for handle in handles:
            handle.remove()
    if own == int(redirected):
        called.pop("", None)
    return called
