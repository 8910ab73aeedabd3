"""What two processes do about masks, run by `two_processes.py`."""

from __future__ import annotations

from typing import Any

import torch
from masking import Given, Moving, largest
from ticketing import Tickets
from tiny_training import Classifier, sgd, state

from thunderstone import ArgumentError, Round, hookimpl


def masks_of(rank: int) -> dict[str, torch.Tensor]:
    """What each rank would have: other weights, and other parameters."""
    masks = largest(Classifier(None, sgd), 0.4)
    return masks if rank == 0 else {"net.2.weight": ~masks["net.2.weight"]}


class Disagreeing(Given):
    """Every rank sets masks of its own."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.masks.set(masks_of(trainer.global_rank))


class Mistaken(Given):
    """Rank zero's masks are for another network."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.masks.set({"net.7.weight": masks_of(0)["net.0.weight"]} if trainer.global_rank == 0 else masks_of(1))


def masked(fit: Any, method: Any) -> dict[str, Any]:
    """The weights and masks that a rank ends with."""
    module = Classifier(None, sgd)
    fit(module, method)
    return {"state": state(module), "masks": dict(method.masks)}


class Undecided(Tickets):
    """Rank one would go on for ever."""

    @hookimpl
    def another_round(self, round: Round) -> bool:
        goes_on = super().another_round(round)
        return goes_on or round.trainer.global_rank == 1


def tickets(fit: Any) -> dict[str, Any]:
    """What each rank has at the end of every round."""
    method = Undecided(2)
    run = fit(Classifier(None, sgd), method)
    rounds = method.state_dict()["rounds"]
    return {"ends": method._ends, "masks": dict(method.masks), "ranks": len(rounds["ranks"]), "step": run.global_step}


def refused(fit: Any) -> str:
    """What a rank says about masks that do not fit."""
    try:
        fit(Classifier(None, sgd), Mistaken())
    except ArgumentError as error:
        return str(error)
    raise AssertionError("nothing was refused")


def scenarios(fit: Any) -> dict[str, Any]:
    """By name, for `two_processes.SCENARIOS`."""
    return {
        "masks that differ": lambda: masked(fit, Disagreeing()),
        "masks that change": lambda: masked(fit, Moving(0.4)),
        "tickets": lambda: tickets(fit),
        "masks refused": lambda: refused(fit),
    }
