"""Rule 10: broken input and unsupported modules are harmless, or an error that explains itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule

from thunderstone.errors import ThunderstoneError
from thunderstone.testing.bench import Bench
from thunderstone.testing.outcome import CheckFailure, check
from thunderstone.testing.settings import PLAIN
from thunderstone.testing.training import Run, train


def _explained(bench: Bench, what: str, prepare: Callable[[LightningModule], None]) -> Run | None:
    """A run on a prepared module, or None where it ended in an error that names the method."""
    case = bench.case("mlp")
    try:
        return train(case, [bench.method(case)], PLAIN, prepare=prepare)
    except ThunderstoneError as error:
        if bench.label not in str(error):
            raise CheckFailure(
                f"[{case.name}, {what}] {type(error).__name__} does not name {bench.label}: {error}"
            ) from error
        return None
    except Exception as error:
        raise CheckFailure(
            f"[{case.name}, {what}] {type(error).__name__}: {error}. HINT: work, or raise an error of "
            f"thunderstone.errors that names {bench.label} and says what to do"
        ) from error


def _replace_training_step(module: LightningModule, step: Callable[..., Any]) -> None:
    cls = type(module)
    module.__class__ = type(cls.__name__, (cls,), {"training_step": step, "__module__": cls.__module__})


@check(rule=10)
def check_explains_manual_optimization(bench: Bench) -> None:
    """With manual optimization it works, or is refused with an error that names it."""

    def manual(module: LightningModule) -> None:
        module.automatic_optimization = False
        original: Any = type(module).training_step

        def training_step(self: LightningModule, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(original(self, batch, batch_idx))
            optimizer.step()

        _replace_training_step(module, training_step)

    _explained(bench, "manual optimization", manual)


@check(rule=10)
def check_survives_skipped_batches(bench: Bench) -> None:
    """A training_step that returns None skips the batch, and nothing is left perturbed."""

    def skipping(module: LightningModule) -> None:
        original: Any = type(module).training_step

        def training_step(self: LightningModule, batch: Any, batch_idx: int) -> Any:
            return original(self, batch, batch_idx) if batch_idx % 2 else None

        _replace_training_step(module, training_step)

    run = _explained(bench, "training_step returns None", skipping)
    if run is not None:
        _require_finite(run, "training_step returns None")


@check(rule=10)
def check_survives_a_nan_loss(bench: Bench) -> None:
    """A loss of NaN does not end in a crash that hides its cause."""

    def diverging(module: LightningModule) -> None:
        original: Any = type(module).training_step

        def training_step(self: LightningModule, batch: Any, batch_idx: int) -> Any:
            loss = original(self, batch, batch_idx)
            return loss * torch.nan if batch_idx == 5 else loss

        _replace_training_step(module, training_step)

    _explained(bench, "the loss is NaN", diverging)


def _require_finite(run: Run, what: str) -> None:
    for name, value in run.observer.weights.items():
        if not value.isfinite().all():
            raise CheckFailure(f"[{what}] {name} is not finite after training")
