"""torch.compile: the whole module, a part of it, and dropout inside of what is compiled."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_training import (
    CLASSES,
    FEATURES,
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
    trainer,
)
from torch import Tensor, nn

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*lru_cache"),
]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Counting(nn.Module):
    """Keeps statistics and draws; a class of one's own, because torch leaves a bare Sequential uncompiled."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = perceptron(nn.BatchNorm1d(8), nn.Dropout(0.4))
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.total.add_(1)
        return self.layers(x) / self.total


class Logging(Classifier):
    """Logs what a compiled network gives."""

    def __init__(self) -> None:
        super().__init__(Counting())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss


class Dropping(nn.Module):
    """As little as can be compiled with a dropout mask in it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.linear(x), 0.4)


@needs_compiler
@pytest.mark.slow
def test_code_that_inductor_generates_draws_the_same_masks_twice() -> None:
    compiled, method = Classifier(Dropping()), Again()
    before = state(compiled)
    compiled.net.compile(backend="inductor")
    fit(compiled, method, max_epochs=2)
    assert_moved(before, compiled)
    assert_second_pass_is_the_first(method)


def test_a_compiled_network_goes_through_the_same_twice() -> None:
    runs = []
    for callbacks in ((), (method := Again(),)):
        torch.compiler.reset()
        module = Logging()
        module.net.compile(backend="eager")
        before = state(module)
        fitted = fit(module, *callbacks, accumulate_grad_batches=2)
        runs.append((module, fitted.callback_metrics["loss"]))
    assert_moved(before, runs[0][0])
    assert_same_bits(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert_second_pass_is_the_first(method)


def test_a_compiled_module_is_fitted_as_it_is() -> None:
    """`Trainer.fit(torch.compile(module))`, where Lightning compiles the steps themselves."""
    runs = []
    compilations: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        compilations.append(1)
        return graph.forward

    for callbacks in ((), (method := Again(),)):
        torch.compiler.reset()
        torch.manual_seed(7)
        module = Classifier(Counting())
        before = state(module)
        fitting = trainer(*callbacks)
        fitting.fit(torch.compile(module, backend=backend), loader())
        runs.append(module)
    assert compilations
    assert_moved(before, runs[0])
    assert_same_bits(*runs)
    assert_second_pass_is_the_first(method)


def test_compiled_and_not_compiled_agree() -> None:
    compiled, eager = Logging(), Logging()
    compiled.net.compile(backend="eager")
    fit(compiled, Ascend())
    fit(eager, Ascend())
    for name, value in state(eager).items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_a_second_pass_is_not_compiled_anew_in_every_step() -> None:
    compilations: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        compilations.append(1)
        return graph.forward

    module = Logging()
    module.net.compile(backend=backend)
    fit(module, Ascend(), max_epochs=3)
    assert module.net.total == 18
    assert len(compilations) == 1
