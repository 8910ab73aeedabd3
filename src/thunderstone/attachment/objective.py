"""A method's own objective in the place of the module's `training_step`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from thunderstone.errors import HookError

if TYPE_CHECKING:
    import pluggy

    from thunderstone.attachment.method import Method


@dataclass(frozen=True)
class ObjectiveStep:
    """One call of `training_step` that a method may answer instead; handed to `compute_loss`.

    Attributes:
        trainer: The running Trainer.
        module: The LightningModule. Under data parallelism its forward is that of the replica, and gradients of the
            returned loss are reduced as those of a loss of its own.
        batch: The batch as `training_step` would get it.
        index: Number of the update this micro-batch belongs to, like `trainer.global_step`.
        batch_number: Number of this micro-batch since training began, from 0; the same in a second pass over it and
            after a resume.
        replay: This is a second pass over the same micro-batch (some method recomputes gradients): the loss is to be
            the same function of the weights, and what a method keeps of a batch is not to be changed.
        foreign: The batch is not one that training goes through: some method asks what the gradient or the loss would
            be (`Attachment.rehearse`, ``module.training_step(batch)``). Its number says nothing, and nothing is to be
            kept of it.
        indices: Position in the training dataset of every sample, as in `LossStep`.
    """

    trainer: Trainer
    module: LightningModule
    batch: Any
    index: int
    batch_number: int
    replay: bool
    foreign: bool
    indices: Tensor | None


def objective_owner(methods: Sequence[Method], manager: pluggy.PluginManager) -> Method | None:
    """The method that owns the objective, or None.

    Raises:
        HookError: Another one implements `compute_loss`.
    """
    owner = next((method for method in methods if "objective" in method.exclusive), None)
    for hook in manager.hook.compute_loss.get_hookimpls():
        if hook.plugin is not owner:
            raise HookError(
                f"{type(hook.plugin).__name__} implements compute_loss without owning the objective. HINT: declare "
                "exclusive = frozenset({'objective'}) in the class"
            )
    return owner


class StandIn:
    """Stands in for the module's `training_step` during a fit, and gives the answer of the objective's owner.

    In the module and not around the strategy's `training_step`: so what lies between them (the precision plug-in's
    context, the forward of DistributedDataParallel) is as in a plain step. And for the whole fit: a measure that calls
    ``module.training_step(batch)`` by itself is told the loss that is trained, with the step marked as `foreign`.

    Args:
        trainer: The Trainer.
        module: The LightningModule.
        compute_loss: Asks the owner.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, compute_loss: Callable[..., Any]) -> None:
        self._trainer, self._module, self._compute_loss = trainer, module, compute_loss
        self._before: dict[str, Any] | None = None
        self._current: ObjectiveStep | None = None
        self._asking = False

    def install(self) -> None:
        """Take the place."""
        attributes, own = vars(self._module), self._module.training_step
        # torch.compile puts one into the instance too.
        self._before = {name: attributes[name] for name in ("training_step",) if name in attributes}

        @wraps(own)
        def training_step(*arguments: Any, **keywords: Any) -> Any:
            if self._asking:
                # The owner itself wants to know what the module would say.
                return own(*arguments, **keywords)
            step = self._current or self._foreign(arguments, keywords)
            self._asking = True
            try:
                found = self._compute_loss(step=step)
            finally:
                self._asking = False
            return own(*arguments, **keywords) if found is None else found

        attributes["training_step"] = training_step

    def remove(self) -> None:
        """Give the module its own back. Safe to call more than once."""
        if self._before is not None:
            vars(self._module).pop("training_step", None)
            vars(self._module).update(self._before)
            self._before = None

    @contextmanager
    def answering(self, step: ObjectiveStep) -> Iterator[None]:
        """Inside, a call of `training_step` is this step."""
        outer, self._current = self._current, step
        try:
            yield
        finally:
            self._current = outer

    def _foreign(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> ObjectiveStep:
        batch = arguments[0] if arguments else next(iter(keywords.values()))
        return ObjectiveStep(
            self._trainer, self._module, batch, self._trainer.global_step, 0, replay=False, foreign=True, indices=None
        )
