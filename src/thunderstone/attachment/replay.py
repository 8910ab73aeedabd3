"""Going through an accumulated batch a second time without leaving a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from thunderstone.attachment.module_state import ModuleState
from thunderstone.attachment.strategies import hand_out_buffers
from thunderstone.attachment.untrained_parameters import UntrainedParameters
from thunderstone.attachment.window import MicroBatch, Window
from thunderstone.errors import StepError
from thunderstone.random_state import RandomState


def replay(
    trainer: Trainer,
    window: Window,
    training_step: Callable[[MicroBatch], Any],
    optimizer: Optimizer,
    *,
    sync: bool,
) -> int:
    """Accumulate the gradients of the window's micro-batches at the current weights into `.grad`.

    Every micro-batch runs under the random and module state its first pass began with. Afterwards random state,
    module state, loggers and logged values are as they were; the caller owns the gradients.

    Args:
        trainer: The running Trainer.
        window: The recorded micro-batches.
        training_step: Runs the strategy's own `training_step`, and the loss terms, on a recorded micro-batch.
        optimizer: Passed to the precision plug-in's backward, as Lightning does.
        sync: Average over replicas with the last micro-batch; False leaves every replica its own gradient.

    Returns:
        How many of the micro-batches gave a loss.
    """
    strategy, module = trainer.strategy, trainer.lightning_module
    scaler = gradient_scaler(trainer)
    after_random = RandomState(strategy.root_device)
    after_state = ModuleState(module, UntrainedParameters(module, trainer.optimizers))
    last, losses = len(window.batches) - 1, 0
    hand_out_buffers(trainer, window.handed_out_buffers)
    try:
        with silenced(trainer, module), torch.enable_grad():
            for number, batch in enumerate(window.batches):
                if batch.module_state is not None:
                    batch.module_state.restore()
                batch.random_state.restore()
                with without_sync(trainer) if number < last or not sync else nullcontext():
                    loss = loss_of(training_step(batch))
                    if loss is None:
                        continue
                    loss = loss / trainer.accumulate_grad_batches
                    if scaler is not None:
                        loss = scaler.scale(loss)
                    # The precision plug-in's backward calls the module's own `backward` and none of the hooks around
                    # it, which must see one pass.
                    strategy.precision_plugin.backward(loss, module, optimizer)
                    losses += 1
    finally:
        after_state.restore()
        after_random.restore()
    return losses


def loss_of(output: Any) -> Tensor | None:
    """The loss in what `training_step` returned.

    Args:
        output: A tensor, a mapping with ``"loss"``, or None.

    Raises:
        StepError: There is something else in the loss's place.
    """
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if loss is not None and not isinstance(loss, Tensor):
        raise StepError(f"training_step returned {type(loss).__name__} where a loss tensor was expected")
    return loss


def gradient_scaler(trainer: Trainer) -> torch.amp.GradScaler | None:
    """The GradScaler of a 16-bit mixed run, or None."""
    scaler = getattr(trainer.strategy.precision_plugin, "scaler", None)
    return scaler if isinstance(scaler, torch.amp.GradScaler) and scaler.is_enabled() else None


def without_sync(trainer: Trainer) -> AbstractContextManager[None]:
    """No gradient reduction inside, where the strategy has one."""
    strategy = trainer.strategy
    return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()


_SAYING = ("log", "log_dict", "print")


@contextmanager
def silenced(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """What a step says to the outside is taken and ignored inside: logged values, printed lines, a request to stop.

    Args:
        trainer: Whose loggers are replaced for the duration.
        module: Whose `log`, `log_dict` and `print` do nothing, and those of LightningModules in it.
    """
    loggers, should_stop = trainer.loggers, trainer.should_stop
    modules = [child for child in module.modules() if isinstance(child, LightningModule)]
    kept: list[dict[str, Any]] = [
        {name: vars(child)[name] for name in _SAYING if name in vars(child)} for child in modules
    ]
    try:
        trainer.loggers = [DummyLogger() for _ in loggers]
        for child in modules:
            vars(child).update(dict.fromkeys(_SAYING, _take_and_ignore))
        yield
    finally:
        trainer.loggers, trainer.should_stop = loggers, should_stop
        for child, own in zip(modules, kept, strict=True):
            for name in _SAYING:
                vars(child).pop(name, None)
            vars(child).update(own)


def _take_and_ignore(*_: Any, **__: Any) -> None:
    return None
