"""Naming control variates: one, several together, and how their coefficients are fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thunderstone import ArgumentError, strategy
from thunderstone_estimators.control_variates import ControlVariateEstimate, control_variate, corrected_mean
from thunderstone_estimators.sliced_wasserstein.clouds import CloudPair
from thunderstone_estimators.sliced_wasserstein.variates import Variate

KIND = "estimators.control_variate"


@dataclass(frozen=True)
class ControlVariate:
    """Control variates and how to fit them, wherever the name of one can be given.

    Attributes:
        variates: The name of an ``estimators.control_variate`` strategy, a function of that kind, or several of either,
            fitted together.
        fit: ``"ols"``, ``"cross"``, ``"loo"`` or gamma itself, as in `control_variate`.
        detach: Keep gamma out of the graph, as in `control_variate`.
    """

    variates: str | Variate | Sequence[str | Variate]
    fit: str | float = "ols"
    detach: bool = False


Choice = str | Variate | Sequence[str | Variate] | ControlVariate


def as_control_variate(who: str, choice: Choice) -> tuple[list[Variate], ControlVariate]:
    """The functions a choice stands for, imported, and how to fit them.

    Raises:
        UnknownNameError: No package declares a strategy of that name; the message has the nearest one.
        ArgumentError: It is neither a name nor a function, or nothing at all.
    """
    chosen = choice if isinstance(choice, ControlVariate) else ControlVariate(choice)
    several = chosen.variates if isinstance(chosen.variates, (list, tuple)) else [chosen.variates]
    functions: list[Variate] = []
    for one in several:
        function = strategy(KIND, one) if isinstance(one, str) else one
        if not callable(function):
            reason = "it is neither the name of a control variate nor a function"
            raise ArgumentError(who, "control_variate", one, reason, "use e.g. 'upper', or None for plain Monte Carlo")
        functions.append(function)
    if not functions:
        raise ArgumentError(who, "control_variate", choice, "it names nothing", "use None for plain Monte Carlo")
    return functions, chosen


def controlled_mean(
    who: str,
    choice: Choice,
    costs: Tensor,
    directions: Tensor,
    clouds: CloudPair,
    generator: torch.Generator | None,
    log: bool,
) -> tuple[Tensor, ControlVariateEstimate | None]:
    """Mean over directions of `costs` (B, L), corrected with the chosen variates; with `log` how good it is as well."""
    functions, chosen = as_control_variate(who, choice)
    values, means = [], []
    with torch.autocast(costs.device.type, enabled=False):
        for function in functions:
            variate, mean = function(directions, clouds, generator)
            single = variate.dim() == 2
            values.append((variate.unsqueeze(-1) if single else variate).expand(len(costs), -1, -1))
            means.append((mean.unsqueeze(-1) if single else mean).expand(len(costs), -1))
        variates, expected = torch.cat(values, -1), torch.cat(means, -1)
        # One alone has a coefficient a batch entry, and needs no draws to tell variates apart.
        if variates.shape[-1] == 1:
            variates, expected = variates.squeeze(-1), expected.squeeze(-1)
        if not log:
            return corrected_mean(costs, variates, expected, fit=chosen.fit, detach=chosen.detach), None
        estimate = control_variate(costs, variates, expected, fit=chosen.fit, detach=chosen.detach)
        return estimate.estimate, estimate
