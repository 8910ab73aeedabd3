"""The noise against the paper's equation, what it depends on, and where it is added."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from thunderstone import ArgumentError, GradientStep, UnsupportedSettingError
from torch import nn

from thunderstone_flint import GradientNoise
from thunderstone_flint.gradient_noise import standard_deviation, standard_normal


def noise_of_an_update(method: GradientNoise, network: nn.Module, **settings: Any) -> torch.Tensor:
    """What one update adds to gradients of zero, in one vector."""
    parameters = list(network.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    step = GradientStep(torch.optim.SGD(parameters, lr=1.0), network, **settings)
    method.transform_gradients(step)
    return torch.cat([gradient.flatten() for gradient in step.gradients if gradient is not None])


def test_the_variance_fades_as_the_paper_says() -> None:
    """Section 3: sigma_t^2 = eta / (1 + t)^gamma."""
    for update in (0, 1, 10, 9999):
        assert standard_deviation(update, 0.3, 0.55) ** 2 == pytest.approx(0.3 / (1 + update) ** 0.55, rel=1e-12)
    assert standard_deviation(7, 0.3, 0) ** 2 == pytest.approx(0.3)


def test_the_noise_is_normal_and_independent() -> None:
    like = torch.empty(200_000, dtype=torch.float64)
    drawn = standard_normal(like, seed=3, update=5, position=0)
    assert abs(drawn.mean().item()) < 0.01
    assert drawn.std().item() == pytest.approx(1, abs=0.01)
    assert (drawn**4).mean().item() == pytest.approx(3, abs=0.1)
    for other in ({"seed": 4}, {"update": 6}, {"position": 1}):
        arguments = {"seed": 3, "update": 5, "position": 0, **other}
        correlation = (drawn * standard_normal(like, **arguments)).mean().item()
        assert abs(correlation) < 0.01, other
    assert torch.equal(drawn, standard_normal(like, seed=3, update=5, position=0))


def test_training_adds_it_to_the_gradient_of_the_accumulated_batch(module: Any, loader: Any, fit: Any) -> None:
    found = fit(module(), GradientNoise(eta=0.3, gamma=0.55, seed=9), accumulate_grad_batches=2)
    by_hand = module()
    parameters = list(by_hand.parameters())
    batches = list(loader())
    for update in range(3):
        loss = sum(by_hand.training_step(batch) / 2 for batch in batches[2 * update : 2 * update + 2])
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for position, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                noise = standard_normal(parameter, 9, update, position) * (0.3 / (1 + update) ** 0.55) ** 0.5
                parameter.sub_(gradient + noise, alpha=0.1)
    for expected, parameter in zip(parameters, found.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-12, atol=1e-14)


def test_under_a_scaler_the_optimizer_sees_the_same_noise() -> None:
    network = nn.Linear(5, 5)
    plain = noise_of_an_update(GradientNoise(), network)
    scaled = noise_of_an_update(GradientNoise(), network, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    torch.testing.assert_close(scaled / 1024, plain)


def test_a_parameter_without_a_gradient_stays_without() -> None:
    network = nn.Linear(2, 2)
    network.weight.grad = torch.zeros(2, 2)
    step = GradientStep(torch.optim.SGD(network.parameters(), lr=1.0), network)
    GradientNoise().transform_gradients(step)
    assert network.bias.grad is None
    assert network.weight.grad.abs().min() > 0


def test_a_sparse_gradient_is_refused_by_name(fit: Any, module: Any) -> None:
    class Sparse(type(module())):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(4, 1, sparse=True).double()

        def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
            return super().training_step(batch) + self.table(torch.zeros(1, dtype=torch.long)).sum()  # type: ignore[no-any-return]

    with pytest.raises(UnsupportedSettingError, match=r"GradientNoise cannot run with .*table\.weight.* HINT: "):
        fit(Sparse(), GradientNoise())


@pytest.mark.parametrize("arguments", [{"eta": -1.0}, {"eta": float("nan")}, {"gamma": -0.1}, {"seed": -1}])
def test_a_bad_argument_is_named(arguments: dict[str, Any]) -> None:
    (argument,) = arguments
    with pytest.raises(ArgumentError, match=f"GradientNoise: {argument}=.* HINT: "):
        GradientNoise(**arguments)
