"""Which callbacks there are, which hook is running, and how to call one."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.trainer.call import _call_lightning_module_hook
from torch import nn
from torch.optim.swa_utils import AveragedModel


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The Trainer's callbacks, in the order in which it calls them.

    The attribute is used everywhere and declared nowhere: neither documented nor typed.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def set_callbacks(trainer: Trainer, callbacks: list[Callback]) -> None:
    """Replace the list, leaving one that is being iterated over as it is."""
    trainer.callbacks = callbacks  # type: ignore[attr-defined]


def average_models(trainer: Trainer) -> list[nn.Module]:
    """The weight averages that Lightning's callbacks keep (WeightAveraging, StochasticWeightAveraging), with the names
    of the module's own parameters. What is averaged ends up in the module; no hook says where it is until then."""
    averages = [getattr(callback, "_average_model", None) for callback in callbacks_of(trainer)]
    found = [average for average in averages if isinstance(average, nn.Module)]
    return [average.module if isinstance(average, AveragedModel) else average for average in found]


@dataclass(frozen=True)
class RunningHook:
    """A Lightning hook that is being called at this moment.

    Attributes:
        name: Its name, e.g. ``"on_train_batch_end"``.
        arguments: What it is called with after the Trainer and the module.
        pending: The callbacks whose turn comes after the present one in this round.
        in_module: It is the LightningModule's hook rather than a callback's.
        monitoring: None, or which half of the callbacks the round is over: those that monitor a metric go last at the
            end of a training epoch.
    """

    name: str
    arguments: tuple[Any, ...]
    pending: tuple[Callback, ...]
    in_module: bool
    monitoring: bool | None


def running_hook() -> RunningHook | None:
    """The innermost Lightning hook on the call stack, or None.

    A checkpoint is written from inside a hook, and what remains of that hook must run after a resume. Lightning keeps
    no record of how far it has come, except in the local variables of the function that goes through the callbacks.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").endswith("pytorch.trainer.call"):
            kind, seen = frame.f_code.co_name, frame.f_locals
            if kind == "_call_callback_hooks" and "callback" in seen:
                callbacks, current = list(seen["callbacks"]), seen["callback"]
                after = next((n + 1 for n, one in enumerate(callbacks) if one is current), len(callbacks))
                return RunningHook(
                    seen["hook_name"], seen["args"], tuple(callbacks[after:]), False, seen["monitoring_callbacks"]
                )
            if kind == "_call_lightning_module_hook":
                return RunningHook(seen["hook_name"], seen["args"], (), True, None)
        frame = frame.f_back
    return None


def call_hook(trainer: Trainer, name: str, callbacks: Iterable[Callback], module: bool, *arguments: Any) -> None:
    """Call a hook of some callbacks and, where asked for, of the module, the way Lightning does.

    `self.log` decides by the name of the running hook whether and how it may log, and only Lightning's own functions
    set that name.
    """
    owner = trainer.lightning_module
    for callback in callbacks:
        before, owner._current_fx_name = owner._current_fx_name, name
        getattr(callback, name)(trainer, owner, *arguments)
        owner._current_fx_name = before
    if module:
        _call_lightning_module_hook(trainer, name, *arguments)


def monitoring_callbacks(trainer: Trainer) -> list[Callback]:
    """The callbacks that Lightning calls last at the end of a training epoch."""
    return [one for one in callbacks_of(trainer) if isinstance(one, (EarlyStopping, Checkpoint))]
