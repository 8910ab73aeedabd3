"""Adaptive sharpness: how much the loss rises within a distance measured in each weight's own size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from thunderstone import ArgumentError
from thunderstone.arguments import finite, one_of, whole
from thunderstone.tensor_lists import total_norm
from thunderstone_sharpness.measures.apgd import Objective, apgd, project
from thunderstone_sharpness.measures.estimate import Estimate
from thunderstone_sharpness.measures.evaluation import Evaluation, Loss, evaluation
from thunderstone_sharpness.measures.noise import normal, private, uniform

NORMS = ("linf", "l2")
_RHO = "for ResNet-18 the paper uses 0.001 to 0.008 (linf), 0.25 to 2 (l2), 0.05 to 0.4 (average)"


def adaptive_sharpness(
    module: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    *,
    rho: float,
    norm: str = "linf",
    steps: int = 20,
    restarts: int = 1,
    normalise_logits: bool | str = False,
    generator: torch.Generator | None = None,
) -> float:
    """Worst-case adaptive sharpness: the mean over batches of ``max L(w + delta) - L(w)``.

    The neighbourhood is ``|delta| <= rho |w|`` element by element (``"linf"``) or ``||delta / |w| || <= rho``
    (``"l2"``); a weight of exactly 0 stays 0. The maximum is sought by APGD from a random point of the neighbourhood,
    for each batch by itself, in evaluation mode. Andriushchenko et al. 2023, arXiv 2302.07011, section 3; they use 1024
    unaugmented training examples in batches of 128. What is found is a lower bound of the maximum, never below 0.
    The module, its gradients and the random states are the same bits afterwards.

    Args:
        module: The module. Only parameters that require a gradient are moved.
        batches: What `loss` is called with. All count the same, whatever their size.
        loss: ``loss(module, batch)``, the mean loss of a batch.
        rho: Radius, above 0.
        norm: ``"linf"`` or ``"l2"``.
        steps: Gradient steps of APGD.
        restarts: Random starting points for each batch; the highest loss counts.
        normalise_logits: Measure with logits centred and divided by their norm: True for the output of the module's
            own forward, or the name of the submodule that gives the logits.
        generator: Draws the starting points. The default is the same in every call.

    Returns:
        The sharpness, in units of the loss. Cost: ``restarts * (steps + 1) + 1`` forward and backward passes a batch.

    Raises:
        ArgumentError: An argument is out of range, or there are no batches.
        MeasureError: The loss is not finite, has no graph, or does not depend on the module's weights.

    >>> module = nn.Linear(2, 1, bias=False).double()
    >>> _ = module.weight.data.copy_(torch.tensor([[1.0, -2.0]]))
    >>> x = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    >>> round(adaptive_sharpness(module, [x], lambda m, x: m(x).sum(), rho=0.1), 6)  # 0.1 * (3 * 1 + 1 * 2)
    0.5
    """
    who = "adaptive_sharpness"
    rho = finite(who, "rho", rho, _RHO, above=0)
    norm = one_of(who, "norm", norm, NORMS)
    steps = whole(who, "steps", steps, "the paper uses 20")
    restarts = whole(who, "restarts", restarts, "1 is the paper's")
    source = private(generator)
    with evaluation(who, module, batches, loss, normalise_logits=normalise_logits) as here:
        _check_precision(here, rho)
        scale = [value.abs() for value in here.origin]
        rises = [_rise(here, batch, scale, rho, norm, steps, restarts, source) for batch in here.batches]
    return sum(rises) / len(rises)


def _rise(
    here: Evaluation,
    batch: Any,
    scale: list[Tensor],
    rho: float,
    norm: str,
    steps: int,
    restarts: int,
    generator: torch.Generator,
) -> float:
    here.move_to(here.origin)
    with torch.no_grad():
        centre = here.loss(batch).item()
    climb = _climb(here, batch, scale, f" within rho={rho:g} of the weights")
    highest = centre
    for _ in range(restarts):
        start = _start(scale, rho, norm, generator)
        highest = max(highest, apgd(climb, start, rho=rho, norm=norm, steps=steps)[0])
    return highest - centre


def _climb(here: Evaluation, batch: Any, scale: list[Tensor], where: str) -> Objective:
    """Loss and gradient as functions of v, where the weights are ``w + |w| v``."""

    def climb(point: list[Tensor]) -> tuple[float, list[Tensor]]:
        here.move_to(torch._foreach_add(here.origin, torch._foreach_mul(scale, point)))
        value, gradient = here.gradient(batch, where)
        return value.item(), list(torch._foreach_mul(gradient, scale))

    return climb


def _start(scale: list[Tensor], rho: float, norm: str, generator: torch.Generator) -> list[Tensor]:
    if norm == "linf":
        return list(torch._foreach_mul(uniform(scale, generator), rho))
    # A weight of 0 cannot move; its share of the radius belongs to the others.
    drawn = [noise * (size > 0) for noise, size in zip(normal(scale, generator), scale, strict=True)]
    length = float(total_norm(drawn))
    return project(list(torch._foreach_mul(drawn, rho / length)) if length > 0 else drawn, rho, norm)


def average_sharpness(
    module: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    *,
    rho: float,
    draws: int = 10,
    normalise_logits: bool | str = False,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Average-case adaptive sharpness: ``E L(w + delta) - L(w)`` with ``delta ~ N(0, rho^2 w^2)``, mean over batches.

    Andriushchenko et al. 2023, arXiv 2302.07011, section 3. Every draw is used with both signs, which leaves the
    expectation as it is and takes the slope out of the sampling error. Evaluation mode; a weight of exactly 0 stays 0;
    the module, its gradients and the random states are the same bits afterwards.

    Args:
        module: The module. Only parameters that require a gradient are moved.
        batches: What `loss` is called with. All count the same, whatever their size.
        loss: ``loss(module, batch)``, the mean loss of a batch.
        rho: Standard deviation relative to each weight, above 0.
        draws: Number of perturbations, each used with both signs for all batches.
        normalise_logits: As in `adaptive_sharpness`.
        generator: Draws the perturbations. The default is the same in every call.

    Returns:
        The sharpness, in units of the loss (it may be negative), with its standard error over draws. Cost:
        ``2 * draws + 1`` forward passes a batch.

    Raises:
        ArgumentError: An argument is out of range, or there are no batches.
        MeasureError: The loss is not finite at the weights or at perturbed ones.
    """
    rises = average_rises("average_sharpness", module, batches, loss, rho, draws, normalise_logits, generator)
    return Estimate.of(rises)


def average_rises(
    who: str,
    module: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    rho: float,
    draws: int,
    normalise_logits: bool | str,
    generator: torch.Generator | None,
) -> list[float]:
    """The rise of the loss under each draw of `average_sharpness`, averaged over its two signs."""
    rho = finite(who, "rho", rho, _RHO, above=0)
    draws = whole(who, "draws", draws, "10 draws are 20 perturbations")
    source = private(generator)
    rises = []
    with evaluation(who, module, batches, loss, normalise_logits=normalise_logits) as here, torch.no_grad():
        _check_precision(here, rho)
        centre = _mean(here)
        scale = [value.abs() * rho for value in here.origin]
        for _ in range(draws):
            delta = torch._foreach_mul(normal(scale, source), scale)
            both = 0.0
            for sign in (1.0, -1.0):
                here.move_to(torch._foreach_add(here.origin, delta, alpha=sign))
                both += _mean(here, f" at weights perturbed with rho={rho:g}")
            rises.append(both / 2 - centre)
    return rises


def _mean(here: Evaluation, where: str = "") -> float:
    return sum(here.loss(batch, where).item() for batch in here.batches) / len(here.batches)


def _check_precision(here: Evaluation, rho: float) -> None:
    for name, value in zip(here.names, here.origin, strict=True):
        if rho < torch.finfo(value.dtype).eps:
            raise ArgumentError(
                here.measure,
                "rho",
                rho,
                f"{name} is {value.dtype}, which cannot hold a relative change below {torch.finfo(value.dtype).eps:g}",
                "measure a float32 copy of the module, or take a larger radius",
            )
