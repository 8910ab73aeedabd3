"""Methods that own masks, as small as can be, and what a masked run has to look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from thunderstone import Method, UpdatePlan, UpdateStep, hookimpl


def largest(module: nn.Module, density: float, dimensions: int = 2) -> dict[str, Tensor]:
    """Masks that keep the largest weights of every parameter of at least so many dimensions."""
    masks: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        if parameter.dim() >= dimensions:
            size = parameter.detach().abs().flatten().double()
            kept = torch.zeros(size.numel(), dtype=torch.bool)
            kept[size.argsort(descending=True, stable=True)[: round(density * size.numel())]] = True
            masks[name] = kept.view(parameter.shape)
    return masks


class Fixed(Method):
    """Prunes by magnitude when training starts and leaves it at that."""

    name = "fixed"
    exclusive = frozenset({"masks"})

    def __init__(self, density: float = 0.5) -> None:
        self.density = density

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        if not self.masks:
            self.masks.set(largest(pl_module, self.density))


class Given(Method):
    """Sets the masks it is given when training starts."""

    name = "given"
    exclusive = frozenset({"masks"})

    def __init__(self, masks: Any = None) -> None:
        self.given: Mapping[str, Tensor] = masks or {}

    @property
    def arguments(self) -> dict[str, Any]:
        return {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.masks.set(self.given)


class Moving(Fixed):
    """Every other update drops the smallest weight of each parameter and grows the one with the largest gradient."""

    name = "moving"

    def __init__(self, density: float = 0.5, every: int = 2) -> None:
        super().__init__(density)
        self.every = every
        self._changes = 0

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        if plan.index % self.every == 1:
            self.masks.request_dense_gradients()

    @hookimpl
    def after_update(self, step: UpdateStep) -> None:
        gradients = self.masks.dense_gradients
        if not gradients:
            return
        weights = dict(step.module.named_parameters())
        masks = dict(self.masks)
        for name, mask in masks.items():
            size = weights[name].detach().abs().masked_fill(~mask, float("inf"))
            grown = gradients[name].abs().masked_fill(mask, -1.0).flatten().argmax()
            mask.view(-1)[size.flatten().argmin()] = False
            mask.view(-1)[grown] = True
        self.masks.set(masks)
        self._changes += 1


def assert_sparse(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Exactly +0 where a mask is False, and not everywhere else."""
    assert masks
    named = dict(module.named_parameters())
    for name, mask in masks.items():
        pruned = named[name].detach()[~mask]
        assert pruned.numel(), name
        assert bool((pruned == 0).all()), name
        assert not bool(torch.signbit(pruned).any()), name
        assert bool((named[name].detach()[mask] != 0).any()), name


class Watching(Method):
    """Looks at every update from outside: nothing of what is pruned is left anywhere."""

    name = "watching"

    def __init__(self) -> None:
        self._updates = 0
        self._slots = 0
        self._gradients = 0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self._check_gradients(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        masks = owner(trainer).masks
        assert_sparse(pl_module, masks)
        named = dict(pl_module.named_parameters())
        for name, mask in masks.items():
            for optimizer in trainer.optimizers:
                for key, slot in optimizer.state.get(named[name], {}).items():
                    if isinstance(slot, Tensor) and slot.shape == mask.shape and slot.is_floating_point():
                        self._slots += 1
                        assert bool((slot[~mask] == 0).all()), (name, key)
        self._updates += 1

    def _check_gradients(self, trainer: Trainer, module: LightningModule) -> None:
        masks = owner(trainer).masks
        for name, parameter in module.named_parameters():
            if name in masks and parameter.grad is not None:
                self._gradients += 1
                gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
                assert bool((gradient[~masks[name]] == 0).all()), name


def owner(trainer: Trainer) -> Method:
    """The method that owns the masks."""
    found = [one for one in trainer.callbacks if isinstance(one, Method) and "masks" in one.exclusive]
    assert len(found) == 1
    return found[0]
