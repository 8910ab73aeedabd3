"""No measure leaves a trace: same bits after, also after an exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thunderstone import ArgumentError
from thunderstone_sharpness.measures import (
    MeasureError,
    adaptive_sharpness,
    average_sharpness,
    hessian_eigenvalues,
    hessian_trace,
    loss_landscape,
)

MEASURES: dict[str, Callable[..., Any]] = {
    "linf": lambda *a: adaptive_sharpness(*a, rho=0.1, steps=3),
    "l2": lambda *a: adaptive_sharpness(*a, rho=0.1, norm="l2", steps=3, normalise_logits=True),
    "average": lambda *a: average_sharpness(*a, rho=0.1, draws=2),
    "eigenvalues": hessian_eigenvalues,
    "trace": lambda *a: hessian_trace(*a, draws=2),
    "landscape": lambda *a: loss_landscape(*a, points=3, dimensions=2),
    "eigen_landscape": lambda *a: loss_landscape(*a, points=3, directions="eigenvectors"),
}
every_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())


@every_measure
def test_everything_is_the_same_afterwards(network: Any, batches: Any, loss: Any, measure: Any, snapshot: Any) -> None:
    network.net[3].eval()  # A mode that is not its parent's.
    network.net[0].bias.grad = None
    before = snapshot(network)
    measure(network, batches, loss)
    before.assert_same()


@every_measure
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_everything_is_the_same_after_an_exception(
    network: Any, batches: Any, loss: Any, measure: Any, snapshot: Any, kind: Any
) -> None:
    before, calls = snapshot(network), 0

    def failing(module: nn.Module, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise kind("stop")
        return loss(module, batch)

    with pytest.raises(kind, match="stop"):
        measure(network, batches, failing)
    assert calls == 5
    before.assert_same()


@every_measure
def test_works_within_no_grad_inference_and_autocast(network: Any, batches: Any, loss: Any, measure: Any) -> None:
    plain = measure(network, batches, loss)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        copies = [(x.clone(), y.clone()) for x, y in batches]
        inside = measure(network, copies, loss)
    expected, found = (
        [value.losses.tolist() if hasattr(value, "losses") else getattr(value, "values", value)]
        for value in (plain, inside)
    )
    assert found == expected


@every_measure
def test_loss_that_draws_is_one_fixed_function(network: Any, batches: Any, measure: Any) -> None:
    def noisy(module: nn.Module, batch: Any) -> Tensor:
        noise = torch.randn_like(batch[0])
        return nn.functional.cross_entropy(module(batch[0] + noise), batch[1])

    first = measure(network, batches, noisy)
    torch.rand(5)
    second = measure(network, batches, noisy)
    for name in ("value", "values", "centre"):
        assert getattr(first, name, None) == getattr(second, name, None)
    if isinstance(first, float):
        assert first == second


@every_measure
def test_loss_that_calls_backward_itself_adds_to_no_gradient(
    network: Any, batches: Any, loss: Any, measure: Any, snapshot: Any
) -> None:
    def greedy(module: nn.Module, batch: Any) -> Tensor:
        value = loss(module, batch)
        if value.requires_grad:
            value.backward(retain_graph=True)
        return value

    before = snapshot(network)
    measure(network, batches, greedy)
    before.assert_same()


@every_measure
def test_compiled_module_is_measured_without_compiling(network: Any, batches: Any, loss: Any, measure: Any) -> None:
    compiled: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    measure(torch.compile(network.net, backend=backend), batches, loss)
    assert not compiled


@every_measure
def test_bad_input_is_explained(network: Any, batches: Any, loss: Any, measure: Any, snapshot: Any) -> None:
    before = snapshot(network)
    with pytest.raises(ArgumentError, match="nothing to measure on"):
        measure(network, [], loss)
    with pytest.raises(ArgumentError, match="must be callable, not str"):
        measure(network, batches, "loss")
    with pytest.raises(MeasureError, match="the loss is a tensor of shape"):
        measure(network, batches, lambda m, b: m(b[0]))
    with pytest.raises(MeasureError, match="the loss is float"):
        measure(network, batches, lambda m, b: loss(m, b).item())
    with pytest.raises(MeasureError, match=r"the loss is nan.*diverged"):
        measure(network, batches, lambda m, b: loss(m, b) * float("nan"))
    before.assert_same()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(MeasureError, match="no parameter of Network requires a gradient"):
        measure(network, batches, loss)


@pytest.mark.parametrize("name", ["linf", "eigenvalues", "trace"])
def test_loss_without_a_graph_is_explained(network: Any, batches: Any, loss: Any, name: str) -> None:
    with pytest.raises(MeasureError, match="the loss has no graph"):
        MEASURES[name](network, batches, lambda m, b: loss(m, b).detach())
    other = torch.zeros((), dtype=torch.float64, requires_grad=True)
    with pytest.raises(MeasureError, match="depends on none of the module's trainable parameters"):
        MEASURES[name](network, batches, lambda m, b: loss(m, b).detach() + other)


def test_overflow_at_a_perturbed_point_names_the_radius(network: Any, batches: Any) -> None:
    origin = network.net[0].weight.detach().clone()

    def cliff(module: Any, batch: Any) -> Tensor:
        moved = not torch.equal(module.net[0].weight, origin)
        return module(batch[0]).mean() * (float("inf") if moved else 1.0)

    with pytest.raises(MeasureError, match=r"inf within rho=0\.1 of the weights.*smaller radius"):
        adaptive_sharpness(network, batches, cliff, rho=0.1)
    with pytest.raises(MeasureError, match=r"perturbed with rho=0\.1.*smaller radius"):
        average_sharpness(network, batches, cliff, rho=0.1)


def test_recurrent_layers_and_tied_weights(snapshot: Any) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.lstm = nn.LSTM(4, 4, batch_first=True)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.lstm(self.embed(tokens))[0])

    torch.manual_seed(0)
    module, tokens = Tagger(), torch.randint(0, 7, (3, 5))

    def next_token(owner: nn.Module, batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(owner(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    before = snapshot(module)
    for measure in (MEASURES["linf"], MEASURES["eigenvalues"], MEASURES["trace"]):
        measure(module, [tokens], next_token)
    before.assert_same()
    assert len(hessian_eigenvalues(module, [tokens], next_token).vectors[0]) == 5
