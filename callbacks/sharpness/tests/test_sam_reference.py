"""SAM and ASAM against the papers' equations, written out here in float64 with autograd alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from thunderstone_sharpness import ASAM, SAM

RHO, ETA = 0.4, 0.03

Ascent = Callable[[list[str], list[Tensor], list[Tensor]], list[Tensor]]


def l2(names: list[str], weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """Foret et al. 2021, equation 2 with p = 2: rho * sign(g) |g| / (|g|_2^2)^(1/2)."""
    square = sum(float(entry) ** 2 for gradient in gradients for entry in gradient.flatten())
    return [RHO * gradient.sign() * gradient.abs() / square**0.5 for gradient in gradients]


def linf(names: list[str], weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """The same with p = infinity, so q = 1: rho * sign(g)."""
    return [RHO * gradient.sign() for gradient in gradients]


def adaptive(names: list[str], weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """Kwon et al. 2021, equation 8 and section 5: rho * T^2 g / |T g|_2, T = diag(|w| + eta), 1 for biases."""
    operators = [
        torch.ones_like(weight) if name.endswith("bias") else weight.abs() + ETA
        for name, weight in zip(names, weights, strict=True)
    ]
    square = sum(float(((t * g) ** 2).sum()) for t, g in zip(operators, gradients, strict=True))
    return [RHO * t**2 * g / square**0.5 for t, g in zip(operators, gradients, strict=True)]


METHODS: dict[str, tuple[Callable[[], SAM], Ascent]] = {
    "sam": (lambda: SAM(rho=RHO), l2),
    "linf": (lambda: SAM(rho=RHO, perturbation="linf"), linf),
    "adaptive": (lambda: SAM(rho=RHO, adaptive=True, eta=ETA), adaptive),
    "adaptive by name": (lambda: SAM(rho=RHO, perturbation="adaptive_l2", eta=ETA), adaptive),
    "asam": (lambda: ASAM(rho=RHO, eta=ETA), adaptive),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.2, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.1),
}


def by_hand(
    net: nn.Module, ascent: Ascent, optimizer: torch.optim.Optimizer, batches: Sequence[Sequence[tuple[Tensor, Tensor]]]
) -> None:
    """One update for each window of micro-batches; `batches` holds windows."""
    names = [name for name, _ in net.named_parameters()]
    parameters = [parameter for _, parameter in net.named_parameters()]

    def gradients(window: Sequence[tuple[Tensor, Tensor]], length: int) -> list[Tensor]:
        loss = sum(nn.functional.cross_entropy(net(x), y) / length for x, y in window)
        return list(torch.autograd.grad(loss, parameters))

    length = max(len(window) for window in batches)
    for window in batches:
        weights = [parameter.detach().clone() for parameter in parameters]
        shift = ascent(names, weights, gradients(window, length))
        with torch.no_grad():
            for parameter, weight, delta in zip(parameters, weights, shift, strict=True):
                parameter.copy_(weight + delta)
        at_the_worst_point = gradients(window, length)
        with torch.no_grad():
            for parameter, weight, gradient in zip(parameters, weights, at_the_worst_point, strict=True):
                parameter.copy_(weight)
                parameter.grad = gradient
        optimizer.step()


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_several_steps(classifier, fit, dataset, method: str, optimizer: str, accumulated: int) -> None:
    make, ascent = METHODS[method]
    data = dataset(torch.float64)
    trained = classifier(dtype=torch.float64)
    trained.configure_optimizers = lambda: OPTIMIZERS[optimizer](trained.parameters())
    untouched = [parameter.detach().clone() for parameter in trained.parameters()]
    fit(trained, make(), data=data, accumulate_grad_batches=accumulated)

    net = classifier(dtype=torch.float64).net
    batches = [tuple(batch) for batch in DataLoader(data, batch_size=8)]
    windows = [batches[first : first + accumulated] for first in range(0, len(batches), accumulated)] * 2
    by_hand(net, ascent, OPTIMIZERS[optimizer](net.parameters()), windows)
    for one, other, start in zip(trained.parameters(), net.parameters(), untouched, strict=True):
        assert (start - one).abs().max().item() > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_references_differ(classifier, dataset) -> None:
    """Each comparison is with an update rule of its own, and with none that a plain run would pass."""
    ends = []
    for ascent in (l2, linf, adaptive, lambda names, weights, gradients: [torch.zeros_like(w) for w in weights]):
        net = classifier(dtype=torch.float64).net
        batches = [[tuple(batch)] for batch in DataLoader(dataset(torch.float64), batch_size=8)]
        by_hand(net, ascent, OPTIMIZERS["sgd"](net.parameters()), batches)
        ends.append(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]))
    for number, one in enumerate(ends):
        assert all(float((one - other).norm()) > 1e-3 for other in ends[:number])


def test_groups_with_radii_of_their_own(classifier, fit, dataset, weights) -> None:
    """A group's radius scales its own part; groups of radius 0 stay, and do not count in the norm."""
    radii = {"net.0.weight": 0.3, "net.0.bias": 0.0, "net.2.weight": 0.05, "net.2.bias": RHO}
    data = dataset(torch.float64)
    trained = classifier(dtype=torch.float64)

    def groups() -> torch.optim.Optimizer:
        entries = []
        for name, parameter in trained.named_parameters():
            own = {} if radii[name] == RHO else {"rho": radii[name]}
            entries.append({"params": [parameter], **own})
        return torch.optim.SGD(entries, lr=0.2)

    trained.configure_optimizers = groups
    fit(trained, SAM(rho=RHO), data=data)

    def ascent(names: list[str], _: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        own = [radii[f"net.{name}"] for name in names]
        norm = sum(float((g**2).sum()) for g, rho in zip(gradients, own, strict=True) if rho) ** 0.5
        return [rho * g / norm for g, rho in zip(gradients, own, strict=True)]

    net = classifier(dtype=torch.float64).net
    windows = [[tuple(batch)] for batch in DataLoader(data, batch_size=8)] * 2
    by_hand(net, ascent, torch.optim.SGD(net.parameters(), lr=0.2), windows)
    torch.testing.assert_close(weights(trained), weights(net), rtol=1e-9, atol=1e-12)
