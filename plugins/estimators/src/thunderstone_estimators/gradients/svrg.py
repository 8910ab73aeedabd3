"""Stochastic variance reduced gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from thunderstone import GradientStep, LossStep, Method, UnsupportedSettingError, UpdatePlan, hookimpl
from thunderstone.arguments import finite, one_of, whole
from thunderstone_estimators.gradients.correction import corrected_gradients, deviations
from thunderstone_estimators.gradients.full_gradient import full_gradient
from thunderstone_estimators.gradients.optimal_coefficient import OptimalCoefficient

COEFFICIENTS = ("fixed", "linear", "optimal")
_SHARDED = "its snapshot and full gradient are whole copies, which no process holds under sharding"


@dataclass
class _Snapshot:
    """Weights and full gradient by parameter name; both empty where the full gradient was not finite."""

    epoch: int
    weights: dict[str, Tensor] = field(default_factory=dict)
    gradient: dict[str, Tensor] = field(default_factory=dict)


class SVRG(Method):
    """Takes off a batch's gradient what the batch is known to miss of the full gradient at earlier weights.

    The optimizer is given ``g_i(w) - alpha (g_i(w~) - g(w~))`` with ``g_i`` the gradient of the accumulated batch,
    ``w~`` the weights at the last snapshot and ``g`` the gradient over all of the training data. The batch is gone
    through at both points with the same random state. Johnson & Zhang 2013, with alpha=1; the coefficient is that of
    Yin et al. 2023, arXiv 2311.05589 (alpha-SVRG), since 1 mostly hurts deep networks. What other methods add to the
    loss is not corrected. Cost: a second forward and backward pass on every update, a pass over the training data for
    each snapshot, and two copies of the weights (in checkpoints too).

    Args:
        alpha: The coefficient, 0 to 1: the constant one, the first one of a decay, or the largest one. 0 switches the
            method off.
        coefficient: ``"linear"`` decays from alpha to 0 over the whole run (alpha-SVRG), ``"fixed"`` stays, and
            ``"optimal"`` estimates for each layer what leaves the least variance.
        every_n_epochs: A snapshot before the first batch of every n-th epoch.

    Raises:
        ArgumentError: An argument is out of range.
        UnsupportedSettingError: The training data can be gone over only once, or the run's length, which a decay
            needs, is unknown.
    """

    name: ClassVar[str] = "svrg"
    # A loss that is drawn anew at every visit has no gradient at the snapshot to be corrected by.
    exclusive: ClassVar[frozenset[str]] = frozenset({"gradient", "objective"})
    unsupported_strategies: ClassVar[dict[str, str]] = {"FSDPStrategy": _SHARDED, "ModelParallelStrategy": _SHARDED}

    def __init__(self, alpha: float = 0.75, coefficient: str = "linear", every_n_epochs: int = 1) -> None:
        hint = "use 0.5 to 1 with coefficient='linear'; 0 switches the method off"
        self.alpha = finite("SVRG", "alpha", alpha, hint, minimum=0, maximum=1)
        self.coefficient = one_of("SVRG", "coefficient", coefficient, COEFFICIENTS)
        hint = "1 takes a snapshot before every epoch, 5 before every fifth"
        self.every_n_epochs = whole("SVRG", "every_n_epochs", every_n_epochs, hint)
        self._optimal = OptimalCoefficient(self.alpha)
        self._loaded = False
        self._forget()

    def _forget(self) -> None:
        self._snapshot: _Snapshot | None = None
        self._names: dict[int, str] = {}
        self._steps: float = math.inf
        self._new_norm: float | None = None
        self._optimal.reset()

    # -- Lightning's side ----------------------------------------------------------------------------------------------

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin without a snapshot."""
        self._loaded = False
        self._forget()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin without a snapshot, unless a checkpoint brought one, and look at the run's length and strategy."""
        if not self._loaded:
            self._forget()
        self._loaded = False
        if self.alpha == 0:
            return
        if getattr(trainer.strategy.model, "static_graph", False):
            reason = "a pass over the data outside of DistributedDataParallel would be taken for one of its own"
            raise UnsupportedSettingError("SVRG", "static_graph=True", reason, "leave static_graph out")
        steps = trainer.estimated_stepping_batches
        self._steps = steps if steps > 0 else math.inf
        endless = self._steps == math.inf and (trainer.max_epochs is None or trainer.max_epochs < 1)
        if self.coefficient == "linear" and endless:
            raise UnsupportedSettingError(
                "SVRG",
                "a run whose length is unknown",
                "coefficient='linear' decays over the whole run",
                "set max_epochs or max_steps, or use coefficient='fixed' or 'optimal'",
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take a snapshot where one is due: at the first batch, so that the module has begun its epoch."""
        if self.alpha == 0:
            return
        parameters = _trained(trainer)
        snapshot, epoch = self._snapshot, trainer.current_epoch
        if snapshot is None or (epoch % self.every_n_epochs == 0 and snapshot.epoch != epoch):
            self._take(trainer, pl_module, parameters)
        elif len(parameters) != len(self._names) or any(id(parameter) not in self._names for parameter in parameters):
            # A checkpoint's snapshot meets its parameters, or others are trained than before (some were unfrozen).
            self._name(pl_module, parameters)
            if snapshot.weights and snapshot.weights.keys() != set(self._names.values()):
                self._take(trainer, pl_module, parameters)

    def _take(self, trainer: Trainer, module: LightningModule, parameters: list[nn.Parameter]) -> None:
        if self._snapshot is None and trainer.num_training_batches == math.inf:
            rank_zero_info(
                "SVRG goes through the training stream to its end; for an endless one set limit_train_batches"
            )
        self._name(module, parameters)
        self._optimal.reset()
        batches = trainer.num_training_batches
        with self.progress("full gradient", batches if batches < math.inf else None) as phase:
            found = full_gradient("SVRG", trainer, module, parameters, phase.advance)
        self._snapshot = _Snapshot(trainer.current_epoch)
        self._new_norm = found.norm
        if not math.isfinite(found.norm):
            where = f" (batch {found.first_bad} of this process)" if found.first_bad >= 0 else ""
            rank_zero_warn(
                f"SVRG: the full gradient before epoch {trainer.current_epoch} is not finite{where}, so updates are "
                "plain until the next snapshot. HINT: look for a diverged run, a learning rate too high, or bad data"
            )
            return
        names = [self._names[id(parameter)] for parameter in parameters]
        for name, parameter, gradient in zip(names, parameters, found.gradients, strict=True):
            self._snapshot.weights[name] = parameter.detach().clone()
            if gradient is not None:
                self._snapshot.gradient[name] = gradient

    def _name(self, module: LightningModule, parameters: list[nn.Parameter]) -> None:
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self._names = {id(p): names.get(id(p), f"parameter {number}") for number, p in enumerate(parameters)}

    # -- the update ----------------------------------------------------------------------------------------------------

    def _acts(self) -> bool:
        return self.alpha > 0 and self._snapshot is not None and bool(self._snapshot.weights)

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        """Have the batch recorded."""
        if self._acts():
            plan.request_recompute()

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        """Correct the gradient by what the batch misses at the snapshot."""
        if self._new_norm is not None and not step.rehearsal:
            self.record("full_gradient_norm", self._new_norm)
            self._new_norm = None
        snapshot = self._snapshot
        if not self._acts() or snapshot is None:
            return
        names = [self._names.get(id(parameter), "") for parameter in step.parameters]
        full = [snapshot.gradient.get(name) for name in names]
        with step.moved_to([snapshot.weights.get(name) for name in names]):
            # Other methods' terms change from step to step: their mean at the snapshot is not known.
            again = step.recompute(sync=step.synchronised, objective=_own_loss)
        # Of a last update with fewer micro-batches, and of a scaled loss, the gradient's mean is that part as well.
        share = self._share(step)
        one = torch.ones((), device=step.parameters[0].device)
        unscaled = step.unscaled(one)
        gradients, missed = step.gradients, deviations(again, full, share if unscaled is one else share / unscaled)
        del again
        coefficients = self._coefficients(step)
        step.gradients = corrected_gradients(gradients, missed, coefficients)
        if self.coefficient == "optimal" and not step.rehearsal:
            parts = [None if whole_mean is None else share * whole_mean for whole_mean in full]
            self._optimal.update(_unscaled(step, gradients), parts, _unscaled(step, missed))
        mean = coefficients if isinstance(coefficients, float) else torch.stack(list(coefficients)).mean()
        self.record("alpha", mean)

    def _share(self, step: GradientStep) -> float | Tensor:
        trainer = self.attachment.trainer
        share = step.losses / trainer.accumulate_grad_batches
        if trainer.accumulate_grad_batches == 1 or step.replicas == 1 or not step.synchronised:
            return share
        # A replica may have had a micro-batch without a loss: gradients are averaged over replicas, and so is this.
        own = torch.tensor(share, device=trainer.strategy.root_device)
        averaged: Tensor = trainer.strategy.reduce(own, reduce_op="mean")
        return averaged

    def _coefficients(self, step: GradientStep) -> float | Sequence[Tensor]:
        if self.coefficient == "optimal":
            return self._optimal.current(len(step.parameters), step.parameters[0].device).unbind()
        if self.coefficient == "fixed":
            return self.alpha
        trainer = self.attachment.trainer
        epochs = trainer.max_epochs or 1
        done = step.index / self._steps if self._steps < math.inf else trainer.current_epoch / epochs
        return self.alpha * max(0.0, 1 - done)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The snapshot: two copies of the weights."""
        snapshot = self._snapshot
        if snapshot is None:
            return {}
        return {
            "epoch": snapshot.epoch,
            "weights": dict(snapshot.weights),
            "gradient": dict(snapshot.gradient),
            "new_norm": self._new_norm,
            **self._optimal.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved snapshot."""
        if not state_dict or self._attachment is None or self.alpha == 0:
            return
        device = self.attachment.trainer.strategy.root_device
        weights, gradient = (
            {name: value.to(device) for name, value in state_dict[part].items()} for part in ("weights", "gradient")
        )
        self._snapshot = _Snapshot(state_dict["epoch"], weights, gradient)
        self._new_norm = state_dict["new_norm"]
        self._optimal.load_state_dict(state_dict, device)
        self._loaded = True


def _trained(trainer: Trainer) -> list[nn.Parameter]:
    return [
        p for optimizer in trainer.optimizers for g in optimizer.param_groups for p in g["params"] if p.requires_grad
    ]


def _own_loss(step: LossStep) -> Tensor:
    return step.loss


def _unscaled(step: GradientStep, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if gradient is None else step.unscaled(gradient) for gradient in gradients]
