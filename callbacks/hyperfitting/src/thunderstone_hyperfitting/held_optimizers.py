"""Optimizers whose learning rate stays where it is, and whose weight decay is 0."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from thunderstone import UnsupportedSettingError

_CYCLIC = (OneCycleLR, CyclicLR)
_CYCLED = ("momentum", "betas")
_HELD = ("lr", "weight_decay", *_CYCLED)


class HeldOptimizers:
    """Holds the learning rates of some optimizers, and puts everything back in the end.

    Schedulers go on stepping, so that hooks, progress and checkpoints are those of any run; what they write into the
    optimizer is overwritten before it is used.

    Args:
        method: Who asks, for messages.
        lr: The rate of every parameter group; None holds each group at its own, the one that a scheduler began from.
        optimizers: As they come from `configure_optimizers`.
        schedulers: The schedulers that belong to them.

    Raises:
        UnsupportedSettingError: With ``lr=None``: a cyclic schedule, which leaves no trace of a rate to hold, or rates
            of 0; otherwise a parameter group without a learning rate.

    Attributes:
        scheduled: Whether there is a scheduler, which writes between the steps.
    """

    def __init__(
        self, method: str, lr: float | None, optimizers: Iterable[Optimizer], schedulers: Iterable[Any]
    ) -> None:
        self._method, self._lr = method, lr
        self._optimizers = list(optimizers)
        schedulers = list(schedulers)
        self.scheduled = bool(schedulers)
        cyclic = next((one for one in schedulers if isinstance(one, _CYCLIC)), None)
        if cyclic is not None and lr is None:
            reason = "it moves the learning rate between two values from the first step on, and neither is the rate"
            self._refuse(f"the schedule {type(cyclic).__name__}", reason)
        self._own: list[list[dict[str, Any]]] = []
        self._held: list[list[dict[str, Any]]] = []
        for optimizer in self._optimizers:
            cycled = any(isinstance(one, _CYCLIC) and one.optimizer is optimizer for one in schedulers)
            groups = optimizer.param_groups
            self._own.append([{key: _value(group[key]) for key in _HELD if key in group} for group in groups])
            self._held.append([self._of(optimizer, group, cycled) for group in groups])
        if lr is None and self.rates and not any(self.rates):
            self._refuse("learning rates of 0", "nothing would be learnt at the rate the optimizer was built with")
        self._handles = [one.register_step_pre_hook(self._before_step) for one in self._optimizers]

    @property
    def rates(self) -> list[float]:
        """The rate each parameter group is held at."""
        return [held["lr"] for groups in self._held for held in groups if "lr" in held]

    def hold(self) -> None:
        """Overwrite what was written into the optimizers."""
        for optimizer, groups in zip(self._optimizers, self._held, strict=True):
            self._extend(optimizer, groups)
            for group, held in zip(optimizer.param_groups, groups, strict=True):
                for key, value in held.items():
                    _write(group, key, value)

    def release(self) -> None:
        """Take the hooks off and put the optimizers' own values back."""
        while self._handles:
            self._handles.pop().remove()
        for optimizer, groups in zip(self._optimizers, self._own, strict=True):
            for group, own in zip(optimizer.param_groups, groups, strict=False):
                for key, value in own.items():
                    _write(group, key, value)

    def _of(self, optimizer: Optimizer, group: dict[str, Any], cycled: bool) -> dict[str, Any]:
        held: dict[str, Any] = {"weight_decay": 0.0} if "weight_decay" in group else {}
        if "lr" in group:
            # A scheduler notes the rate it began from; with a warm-up the present one may be 0.
            held["lr"] = self._lr if self._lr is not None else float(group.get("initial_lr", group["lr"]))
        elif self._lr is not None:
            reason = "its parameter groups have no learning rate that could be set"
            raise UnsupportedSettingError(
                self._method, f"the optimizer {type(optimizer).__name__}", reason, "use lr=None"
            )
        if cycled:
            held.update({key: optimizer.defaults[key] for key in _CYCLED if key in group})
        return held

    def _extend(self, optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
        # Groups that a callback unfroze in mid-training.
        if len(groups) == len(optimizer.param_groups):
            return
        for group in optimizer.param_groups[len(groups) :]:
            groups.append(self._of(optimizer, group, cycled=False))

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        number = next(n for n, one in enumerate(self._optimizers) if one is optimizer)
        self._extend(optimizer, self._held[number])
        for group, held in zip(optimizer.param_groups, self._held[number], strict=True):
            if self._lr is None and "lr" in held and float(group["lr"]) != held["lr"]:
                self._refuse(
                    f"a learning rate set to {float(group['lr']):g} right before a step, where it was held at "
                    f"{held['lr']:g}",
                    "something besides the schedulers sets it, and which rate it would end at cannot be known",
                )
            for key, value in held.items():
                _write(group, key, value)

    def _refuse(self, setting: str, reason: str) -> None:
        raise UnsupportedSettingError(
            self._method, setting, reason, f"say which rate to hold: {self._method}(lr=1e-6), the paper's"
        )


def _value(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _write(group: dict[str, Any], key: str, value: Any) -> None:
    present = group[key]
    if isinstance(present, Tensor):
        # Captured graphs read the tensor that was there when they were captured.
        present.fill_(float(value))
    elif present != value:
        group[key] = value
