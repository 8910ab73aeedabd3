"""Rules 6 and 7: what else is done to a batch (further passes, draws, a loss scale) changes nothing for a method."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from thunderstone.attachment.gradient_step import GradientStep
from thunderstone.attachment.method import Method
from thunderstone.attachment.window import UpdatePlan
from thunderstone.markers import hookimpl
from thunderstone.testing.bench import Bench
from thunderstone.testing.comparison import flatten, require_same
from thunderstone.testing.outcome import CheckFailure, check
from thunderstone.testing.settings import SETTINGS, Setting
from thunderstone.testing.training import Run

_BRIEF = Setting("one epoch", lambda: {"max_epochs": 1})
_SCALED = SETTINGS["a growing loss scale"]
# What a method that does not care about the scale may differ by: an epsilon that was added to a scaled norm.
_ROUNDING = 1e-3
# The hooks of an update. Not `compute_loss`, which runs the module as a plain step would.
_STEP_HOOKS = ("plan_update", "loss_terms", "transform_gradients", "after_update")


class Onlooker(Method):
    """Has every update recorded; goes through it again, or rehearses it, and uses nothing of that."""

    name: ClassVar[str] = "onlooker"

    def __init__(self, looks: bool) -> None:
        self.looks = looks

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        """Have its batches kept."""
        plan.request_recompute()

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        """Further passes in every other update, a rehearsal in the rest."""
        if not self.looks or step.rehearsal:
            return
        if step.index % 2:
            self.attachment.rehearse(step.micro_batches, self)
        else:
            step.recompute()


def _outcome(run: Run) -> dict[str, Any]:
    method: Any = run.callbacks_before[0]
    return {**run.state, "method": method.state_dict()}


@check(rule=6)
def check_counts_batches_once(bench: Bench) -> None:
    """Where another method goes through a batch again, or rehearses an update, it trains as if nobody had."""
    case = bench.case("mlp")
    # Compared with a method that only could: whoever measures the others' effect sees that there is one.
    alone, watched = (
        _outcome(bench.train(case, [bench.method(case), Onlooker(looks)], _BRIEF)) for looks in (False, True)
    )
    require_same(
        case.name,
        "training beside a method that makes further passes",
        alone,
        watched,
        hint="what is kept of a batch is not to be changed where step.replay is set, nor of an update where "
        "step.rehearsal is",
    )


class _Draws(Callback):
    """Notes in which of a method's hooks global random numbers are drawn. It stands before the method."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.found: dict[str, None] = {}
        self._before: list[tuple[Any, ...]] = []
        for name in dir(Callback):
            own = getattr(type(method), name, None)
            if name.startswith("on_") and own is not None and own is not getattr(Method, name, None):
                setattr(method, name, self._watched(name, getattr(method, name)))

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            before = _global_numbers()
            result = function(*arguments, **keywords)
            if _global_numbers() != before:
                self.found[name] = None
            return result

        return call

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.method.attachment.manager.add_hookcall_monitoring(self._hook_begins, self._hook_ends)

    def _hook_begins(self, *_: Any) -> None:
        self._before.append(_global_numbers())

    def _hook_ends(self, outcome: object, hook: str, *_: Any) -> None:
        if self._before.pop() != _global_numbers() and hook in _STEP_HOOKS:
            self.found[hook] = None


def _global_numbers() -> tuple[Any, ...]:
    numpy = np.random.get_state(legacy=False)["state"]
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy["key"].tobytes(), numpy["pos"]


@check(rule=6)
def check_counts_random_numbers_once(bench: Bench) -> None:
    """Data, dropout and all others draw the random numbers they draw without it: its hooks leave the global state."""
    case = bench.case("mlp")
    method = bench.method(case)
    draws = _Draws(method)
    bench.train(case, [draws, method])
    if draws.found:
        raise CheckFailure(
            f"[{case.name}] {bench.label} draws from a global generator, or seeds it, in {', '.join(draws.found)}. "
            "HINT: draw from a torch.Generator of its own, seeded for each batch, or put back what is found with "
            "thunderstone.isolation.RandomState"
        )


@check(rule=7)
def check_runs_at_any_loss_scale(bench: Bench) -> None:
    """Under a GradScaler whose scale grows it trains to the weights of a run without one."""
    case = bench.case("mlp")
    plain, scaled = bench.default(case), bench.default(case, _SCALED)
    ends = flatten(scaled.state["weights"])
    for name, expected in flatten(plain.state["weights"]).items():
        if expected.is_floating_point() and not torch.allclose(ends[name], expected, rtol=_ROUNDING, atol=_ROUNDING):
            off = float((ends[name] - expected).abs().max())
            raise CheckFailure(
                f"[{case.name}, {_SCALED.name}] {name} is off by {off:.3g} from a run in which losses are not scaled. "
                "HINT: what is compared with a number, recorded or kept is step.unscaled(...); what is added to "
                "gradients is multiplied by step.loss_scale"
            )
