"""Scores, against their equations in float64."""

from __future__ import annotations

import torch
from torch import nn

import thunderstone
from thunderstone_pruning.scores import Candidates


def candidates(seed: int = 0) -> tuple[nn.Sequential, Candidates]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    weights = {name: parameter for name, parameter in net.named_parameters() if "weight" in name}

    def gradients() -> dict[str, torch.Tensor]:
        loss = (net(x) - y).square().mean()
        return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))

    return net, Candidates(weights, gradients, torch.Generator().manual_seed(seed))


def score(name: str, given: Candidates) -> dict[str, torch.Tensor]:
    found = thunderstone.strategy("pruning.score", name)(given)
    assert list(found) == list(given.weights)
    assert not any(tensor.requires_grad for tensor in found.values())
    return found


def test_magnitude() -> None:
    net, given = candidates()
    assert score("magnitude", given)["0.weight"].equal(net[0].weight.detach().abs())


def test_snip_is_the_derivative_by_a_factor_on_each_connection() -> None:
    """Lee et al. 2019, eq. 4, with explicit indicator variables c in front of the weights."""
    net, given = candidates()
    found = score("snip", given)
    torch.manual_seed(0)
    candidates()  # draws the weights, so that x and y are drawn next
    torch.manual_seed(0)
    nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    first, second = torch.ones(5, 4, dtype=torch.float64), torch.ones(2, 5, dtype=torch.float64)
    first.requires_grad_()
    second.requires_grad_()
    hidden = torch.tanh(x @ (first * net[0].weight).T + net[0].bias)
    loss = ((hidden @ (second * net[2].weight).T + net[2].bias) - y).square().mean()
    loss.backward()
    assert first.grad is not None
    assert second.grad is not None
    torch.testing.assert_close(found["0.weight"], first.grad.abs(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found["2.weight"], second.grad.abs(), rtol=1e-12, atol=0)


def test_gradient_is_the_size_of_the_gradient() -> None:
    _, given = candidates()
    found, gradients = score("gradient", given), given.gradients()
    assert all(found[name].equal(gradients[name].abs()) for name in found)


def test_random_draws_from_its_own_generator_alone() -> None:
    _, given = candidates()
    before = torch.get_rng_state()
    one = score("random", given)
    assert torch.get_rng_state().equal(before)
    again = score("random", candidates()[1])
    assert all(one[name].equal(again[name]) for name in one)
    other = score("random", Candidates(given.weights, given.gradients, torch.Generator().manual_seed(1)))
    assert not other["0.weight"].equal(one["0.weight"])


def test_magnitude_and_random_ask_for_no_gradient() -> None:
    _, given = candidates()

    def costly() -> dict[str, torch.Tensor]:
        raise AssertionError("a gradient was asked for")

    for name in ("magnitude", "random"):
        score(name, Candidates(given.weights, costly, given.generator))
