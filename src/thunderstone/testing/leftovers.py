"""What a run may leave behind: attributes, hooks, patched functions, changed global settings."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.optim import Optimizer
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from thunderstone.testing.training import Run

_CLASSES: tuple[type, ...] = (
    Trainer,
    LightningModule,
    Strategy,
    SingleDeviceStrategy,
    nn.Module,
    nn.Linear,
    nn.BatchNorm1d,
    nn.Dropout,
    Optimizer,
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    Tensor,
    DataLoader,
)


def process_state() -> dict[str, Any]:
    """What a run may patch or set outside of its own objects."""
    return {"functions": _functions(), "settings": _settings()}


def _functions() -> dict[str, int]:
    """Identity of every function of the classes a run uses, and of torch's entry points."""
    functions = {
        f"{cls.__module__}.{cls.__qualname__}.{name}": id(value)
        for cls in _CLASSES
        for name, value in list(vars(cls).items())
        if isinstance(value, FunctionType)
    }
    functions["torch.autograd.backward"] = id(torch.autograd.backward)
    functions["torch.nn.functional.cross_entropy"] = id(nn.functional.cross_entropy)
    return functions


def _settings() -> dict[str, Any]:
    """Settings of the process that training depends on."""
    hooks = [
        name for name in vars(nn_module) if name.startswith("_global_") and isinstance(vars(nn_module)[name], Mapping)
    ]
    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default dtype": torch.get_default_dtype(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "threads": torch.get_num_threads(),
        "SIGTERM handler": signal.getsignal(signal.SIGTERM),
        "hooks on all modules": {name: len(vars(nn_module)[name]) for name in hooks},
    }


def traces(run: Run) -> set[str]:
    """Everything that hangs on a run's objects, by name and type; a patch or hook shows as one more entry."""
    return set(_traces(run))


def _traces(run: Run) -> Iterator[str]:
    trainer, module = run.trainer, run.module
    owners: dict[str, Any] = {
        "trainer": trainer,
        "trainer.strategy": trainer.strategy,
        "trainer.strategy.precision_plugin": trainer.strategy.precision_plugin,
        "trainer.strategy.accelerator": trainer.strategy.accelerator,
        "trainer.fit_loop": trainer.fit_loop,
        "trainer.fit_loop.epoch_loop": trainer.fit_loop.epoch_loop,
        "trainer.fit_loop.epoch_loop.automatic_optimization": trainer.fit_loop.epoch_loop.automatic_optimization,
        "trainer.train_dataloader": trainer.train_dataloader,
        "trainer.train_dataloader.dataset": getattr(trainer.train_dataloader, "dataset", None),
        **{f"trainer.optimizers[{i}]": optimizer for i, optimizer in enumerate(trainer.optimizers)},
        **{f"trainer.loggers[{i}]": logger for i, logger in enumerate(trainer.loggers)},
    }
    for label, owner in owners.items():
        yield f"{label} is a {type(owner).__qualname__}"
        yield from _attributes(label, owner)
    for path, child in module.named_modules():
        label = f"module.{path}" if path else "module"
        yield f"{label} is a {type(child).__qualname__}"
        yield from _attributes(label, child)
    for name, parameter in module.named_parameters():
        label = f"parameter {name}"
        yield from (f"{label} has the attribute {key!r}" for key in vars(parameter))
        for hooks in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            for hook in (getattr(parameter, hooks, None) or {}).values():
                yield f"{label} has a hook in {hooks}: {_name(hook)}"


def _attributes(label: str, owner: Any) -> Iterator[str]:
    for key, value in vars(owner).items() if hasattr(owner, "__dict__") else ():
        if isinstance(value, Mapping) and "hook" in key:
            for hook in value.values():
                yield f"{label} has a hook in {key}: {_name(hook)}"
        elif callable(value) and not isinstance(value, (nn.Module, type)):
            yield f"{label}.{key} is set on the instance: {_name(value)}"
        else:
            yield f"{label}.{key} is there"


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)
