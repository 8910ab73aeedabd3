"""IGNITE against the paper's update in float64, with its multiplier."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thunderstone import ArgumentError, CompositionError, StepError
from thunderstone_sharpness import IGNITE, SAM
from thunderstone_sharpness.ignite import next_multiplier


class Surrogate(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def table() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(24, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, x[:, :1].square())


def test_against_the_update(fit, weights, table) -> None:
    multiplier, rho, r, eta, epsilon, rate = 0.5, 0.2, 0.1, 0.3, 0.01, 0.1
    method = IGNITE(multiplier, rho, r, eta, epsilon)
    trained = fit(Surrogate(), method, data=table)

    net = Surrogate().net
    parameters = list(net.parameters())
    for _ in range(2):
        for x, y in DataLoader(table, batch_size=8):
            loss = torch.autograd.grad(nn.functional.mse_loss(net(x), y), parameters)
            here = torch.autograd.grad(net(x).mean(), parameters)
            norm = sum(g.square().sum() for g in here).sqrt()
            with torch.no_grad():
                for parameter, g in zip(parameters, here, strict=True):
                    parameter += r * g / norm
            there = torch.autograd.grad(net(x).mean(), parameters)
            with torch.no_grad():
                for parameter, g_loss, a, b in zip(parameters, loss, here, there, strict=True):
                    parameter -= r * a / norm
                    parameter -= rate * (g_loss + multiplier * (rho / r) * (b - a))
            multiplier = max(0.0, multiplier + eta * (rho * float(norm) - epsilon))
    torch.testing.assert_close(weights(trained), weights(net), rtol=1e-10, atol=1e-12)
    assert float(method.state_dict()["multiplier"]) == pytest.approx(multiplier, rel=1e-10)


def test_two_micro_batches_are_one_batch(fit, weights, table) -> None:
    """The mean output, its gradient and the multiplier's step are those of the whole accumulated batch."""
    methods = [IGNITE(multiplier=0.5, rho=0.2, r=0.1, eta=0.3) for _ in range(2)]
    whole = fit(Surrogate(), methods[0], data=DataLoader(table, batch_size=8))
    halves = fit(Surrogate(), methods[1], data=DataLoader(table, batch_size=4), accumulate_grad_batches=2)
    torch.testing.assert_close(weights(halves), weights(whole), rtol=1e-10, atol=1e-12)
    multipliers = [method.state_dict()["multiplier"] for method in methods]
    torch.testing.assert_close(*multipliers, rtol=1e-10, atol=1e-12)
    assert not torch.equal(weights(whole), weights(fit(Surrogate(), data=table)))


def test_a_linear_model_is_left_as_it_is(fit, weights, table) -> None:
    """The gradient of its output is the same at all weights, so that there is no sharpness to hold down."""

    def linear() -> Surrogate:
        module = Surrogate()
        module.net = nn.Linear(4, 1).double()
        return module

    torch.manual_seed(0)
    plain = fit(linear(), data=table)
    torch.manual_seed(0)
    torch.testing.assert_close(weights(fit(linear(), IGNITE(multiplier=5.0), data=table)), weights(plain))


def test_rho_zero_changes_nothing(fit, weights, table) -> None:
    assert torch.equal(weights(fit(Surrogate(), IGNITE(rho=0), data=table)), weights(fit(Surrogate(), data=table)))


def test_the_multiplier_never_goes_below_zero_and_survives_an_overflow() -> None:
    start = torch.tensor(0.1, dtype=torch.float64)
    assert next_multiplier(start, torch.tensor(0.0), 0.05, 1.0, 5.0) == 0
    assert next_multiplier(start, torch.tensor(10.0), 0.1, 0.5, 0.2) == pytest.approx(0.5)
    assert next_multiplier(start, torch.tensor(float("inf")), 0.05, 1.0, 0.0) == start
    assert next_multiplier(start, torch.tensor(float("nan")), 0.05, 1.0, 0.0) == start


def test_a_second_fit_begins_with_the_multiplier_of_the_arguments(fit, weights, table) -> None:
    method = IGNITE(multiplier=0.3, eta=1.0)
    first = fit(Surrogate(), method, data=table)
    assert torch.equal(weights(fit(Surrogate(), method, data=table)), weights(first))


@pytest.mark.parametrize("passed_on", [lambda y: y.detach(), lambda y: y.argmax(1)], ids=["detached", "integers"])
def test_an_output_without_a_gradient(fit, table, passed_on) -> None:
    class Cut(Surrogate):
        def forward(self, x: Tensor) -> Tensor:
            return passed_on(self.net(x))

        def training_step(self, batch: list[Tensor]) -> Tensor:
            self(batch[0])
            return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    with pytest.raises(StepError, match="IGNITE: the output of the module's own forward has no gradient"):
        fit(Cut(), IGNITE(), data=table)


def test_it_owns_the_gradient(fit, table) -> None:
    with pytest.raises(CompositionError, match="IGNITE and SAM"):
        fit(Surrogate(), IGNITE(), SAM(), data=table)


@pytest.mark.parametrize(
    "bad", [{"r": 0}, {"rho": -1}, {"eta": -1}, {"epsilon": float("nan")}, {"multiplier": -1}], ids=str
)
def test_bad_arguments(bad) -> None:
    (name,) = bad
    with pytest.raises(ArgumentError, match=f"IGNITE: {name}="):
        IGNITE(**bad)
