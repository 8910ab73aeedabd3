"""Optimizers that call their closure more than once, and several kinds that call it once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from tiny_training import (
    Again,
    Ascend,
    Classifier,
    assert_moved,
    assert_same_bits,
    assert_second_pass_is_the_first,
    fit,
    loader,
    perceptron,
    state,
)
from torch import Tensor, nn
from torch.optim import Optimizer

OPTIMIZERS: dict[str, Callable[[Iterable[Any]], Optimizer]] = {
    "lbfgs": lambda parameters: torch.optim.LBFGS(parameters, lr=0.1, max_iter=4),
    "lbfgs_line_search": lambda parameters: torch.optim.LBFGS(parameters, max_iter=3, line_search_fn="strong_wolfe"),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    "adam_fused": lambda parameters: torch.optim.Adam(parameters, lr=0.01, fused=True),
    "nadam": lambda parameters: torch.optim.NAdam(parameters, lr=0.01),
    "rprop": lambda parameters: torch.optim.Rprop(parameters, lr=0.01),
    "adadelta": lambda parameters: torch.optim.Adadelta(parameters, lr=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_looking_twice_changes_nothing_under(name: str) -> None:
    net = lambda: perceptron(nn.BatchNorm1d(8), nn.Dropout(0.3))  # noqa: E731
    plain, watched, method = Classifier(net(), OPTIMIZERS[name]), Classifier(net(), OPTIMIZERS[name]), Again()
    before = state(plain)
    fit(plain)
    fit(watched, method)
    assert_moved(before, plain)
    assert_same_bits(plain, watched)
    assert_second_pass_is_the_first(method)


def test_each_call_of_the_closure_is_an_evaluation_of_its_own() -> None:
    """A line search is handed the gradient at the perturbed weights in every evaluation, and finds weights in place."""
    weights: list[Tensor] = []

    class Listening(Classifier):
        def loss(self, batch: Any) -> Tensor:
            weights.append(self.net[0].weight.detach().clone())
            return super().loss(batch)

    module, method = Listening(optimizer=OPTIMIZERS["lbfgs_line_search"]), Ascend(rho=0.05)
    fitted = fit(module, method, limit_train_batches=2)
    evaluations = len(method._first)
    assert evaluations > 4
    assert len(weights) == 2 * evaluations
    assert fitted.global_step == 2
    for number in range(evaluations):
        assert not torch.equal(weights[2 * number], weights[2 * number + 1])
    assert len(method._skipped) == 2


def test_a_line_search_sees_the_objective_it_was_given() -> None:
    """LBFGS on perturbed gradients, against the same written by hand in a loop."""
    module, reference = Classifier(optimizer=OPTIMIZERS["lbfgs"]), Classifier(optimizer=OPTIMIZERS["lbfgs"])
    fit(module, Ascend(rho=0.1), data=loader(8, 8))
    x, y = next(iter(loader(8, 8)))
    parameters = list(reference.parameters())
    optimizer = OPTIMIZERS["lbfgs"](parameters)

    def closure() -> Tensor:
        loss = reference.loss((x, y))
        gradients = torch.autograd.grad(loss, parameters)
        factor = 0.1 / torch.cat([gradient.flatten() for gradient in gradients]).norm()
        saved = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.add_(gradient * factor)
        perturbed = torch.autograd.grad(reference.loss((x, y)), parameters)
        with torch.no_grad():
            for parameter, value, gradient in zip(parameters, saved, perturbed, strict=True):
                parameter.copy_(value)
                parameter.grad = gradient
        return loss

    optimizer.step(closure)
    for name, value in state(module).items():
        torch.testing.assert_close(value, reference.state_dict()[name], rtol=1e-5, atol=1e-5)


class CallsTwice(torch.optim.SGD):
    """An optimizer that evaluates its closure twice and steps with the second gradient."""

    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        assert closure is not None
        with torch.enable_grad():
            closure()
            loss = closure()
        super().step()
        return loss


def test_an_optimizer_of_ones_own_that_calls_its_closure_twice() -> None:
    net = lambda: perceptron(nn.BatchNorm1d(8))  # noqa: E731
    plain = Classifier(net(), lambda parameters: CallsTwice(parameters, lr=0.1))
    watched = Classifier(net(), lambda parameters: CallsTwice(parameters, lr=0.1))
    method = Again()
    fit(plain)
    fit(watched, method)
    assert len(method._first) == 12
    assert_second_pass_is_the_first(method)
    assert_same_bits(plain, watched)
    assert watched.net[1].num_batches_tracked == 12
