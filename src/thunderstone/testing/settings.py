"""The settings of a Trainer under which a method is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.plugins import MixedPrecision

CLIP_NORM = 0.05
CLIP_VALUE = 0.01


@dataclass(frozen=True)
class Setting:
    """Arguments of a Trainer under a name.

    Attributes:
        name: What messages call it.
        arguments: Makes the arguments; some (a GradScaler) hold state and belong to one Trainer.
        compiled: Fit a module that went through `torch.compile`.
    """

    name: str
    arguments: Callable[[], dict[str, Any]] = dict
    compiled: bool = False


def _scaled() -> dict[str, Any]:
    # A moderate first scale: with the default of 2**16 most steps of so short a run would be skipped.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


class _ScaledOnly(MixedPrecision):
    """A GradScaler without lower precision: a power of two that losses are multiplied by changes no bit."""

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        yield


def _scaled_in_single_precision() -> dict[str, Any]:
    # It grows in the course of so short a run, and never overflows.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    return {"plugins": [_ScaledOnly("16-mixed", "cpu", scaler=scaler)]}


PLAIN = Setting("plain")
SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        PLAIN,
        Setting("bf16-mixed", lambda: {"precision": "bf16-mixed"}),
        Setting("16-mixed", _scaled),
        Setting("a growing loss scale", _scaled_in_single_precision),
        Setting("64-true", lambda: {"precision": "64-true"}),
        Setting("accumulate_grad_batches=3", lambda: {"accumulate_grad_batches": 3}),
        Setting("gradient_clip_val by norm", lambda: {"gradient_clip_val": CLIP_NORM}),
        Setting(
            "gradient_clip_val by value",
            lambda: {"gradient_clip_val": CLIP_VALUE, "gradient_clip_algorithm": "value"},
        ),
        Setting("torch.compile", lambda: {"max_epochs": 1, "limit_train_batches": 3}, compiled=True),
        Setting("fast_dev_run", lambda: {"fast_dev_run": 2}),
        Setting("sanity checking", lambda: {"num_sanity_val_steps": 2}),
        Setting("no logger", lambda: {"logger": False}),
        Setting("log_every_n_steps=2", lambda: {"log_every_n_steps": 2}),
    )
}
"""Every setting, by name."""
