"""Several measures one after the other within a time budget, the cheap ones first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thunderstone import ThunderstoneError
from thunderstone_sharpness.measures.estimate import Estimate
from thunderstone_sharpness.measures.evaluation import Loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Outcome = Mapping[str, "float | Estimate | Figure"]


class OutOfTimeError(Exception):
    """The budget was used up in the middle of a measure. Never leaves `run_battery`."""


class Clock:
    """The time that is left.

    Args:
        budget: Seconds from now; None is no limit.
        agree: Makes one decision of all processes' opinions; None where there is one process. Processes must take the
            same measures, so with several of them the clock is read between measures only.
    """

    def __init__(self, budget: float | None, agree: Callable[[bool], bool] | None = None) -> None:
        self.budget = budget
        self._agree = agree
        self._end = None if budget is None else time.monotonic() + budget

    def over(self) -> bool:
        """Whether the budget is used up."""
        late = self._end is not None and time.monotonic() >= self._end
        return late if self._agree is None else self._agree(late)

    def limit(self, loss: Loss) -> Loss:
        """`loss`, which stops the measure that calls it when the budget is used up."""

        def limited(module: nn.Module, batch: Any) -> Tensor:
            if self._agree is None and self.over():
                raise OutOfTimeError
            return loss(module, batch)

        return limited


@dataclass(frozen=True)
class Task:
    """A measure to take.

    Attributes:
        name: The measure's name.
        cost: About how many forward passes over all batches it needs.
        take: Takes it; returns named scalars, estimates and figures.
        needed: Where this cannot be measured, nothing dearer can.
        evaluations: How often it asks for the loss of each batch; None where that turns out on the way.
    """

    name: str
    cost: float
    take: Callable[[], Outcome]
    needed: bool = False
    evaluations: int | None = None


@dataclass(frozen=True)
class Reading:
    """What became of a task.

    Attributes:
        name: The measure's name.
        outcome: What it returned; empty if it was not taken.
        status: ``"measured"``, or why not: ``"left out: …"``, ``"stopped: …"``, ``"failed: …"``.
        seconds: How long it took.
    """

    name: str
    outcome: Outcome
    status: str
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether it was tried and cannot be taken."""
        return self.status.startswith("failed")


def run_battery(tasks: Sequence[Task], clock: Clock) -> list[Reading]:
    """Take the measures in the order of their costs. One that cannot be taken does not keep the others from it."""
    readings: list[Reading] = []
    missing: str | None = None
    for task in sorted(tasks, key=lambda task: task.cost):
        started = time.monotonic()
        outcome: Outcome = {}
        if missing is not None:
            status = f"left out: {missing} could not be measured"
        elif clock.over():
            status = f"left out: the budget of {clock.budget:g} s was used up"
        else:
            try:
                outcome, status = task.take(), "measured"
            except OutOfTimeError:
                status = f"stopped: the budget of {clock.budget:g} s was used up"
            except ThunderstoneError as error:
                status = f"failed: {error}"
            except torch.OutOfMemoryError:
                status = "failed: out of memory. HINT: choose a smaller batch_size"
        if task.needed and status.startswith("failed"):
            missing = task.name
        readings.append(Reading(task.name, outcome, status, time.monotonic() - started))
    return readings
