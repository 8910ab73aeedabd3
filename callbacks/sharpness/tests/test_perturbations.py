"""Properties that the ascent directions have by their definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import thunderstone
from thunderstone_sharpness.perturbations import adaptive_l2, l2, linf

DIRECTIONS = {"l2": l2, "adaptive_l2": adaptive_l2, "linf": linf}

radius = st.floats(1e-4, 10)
shapes = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=5)
seeds = st.integers(0, 2**16)


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """The L2 norm of everything together."""
    return torch.cat([torch.zeros(1, dtype=torch.float64), *(tensor.flatten() for tensor in tensors)]).norm()


def _draw(sizes: list[list[int]], seed: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    return gradients, [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


@given(sizes=shapes, rho=radius, seed=seeds)
@settings(max_examples=50)
def test_l2_has_the_norm_rho_and_points_along_the_gradient(sizes: list[list[int]], rho: float, seed: int) -> None:
    gradients, weights = _draw(sizes, seed)
    delta = l2(gradients, weights, [rho] * len(sizes), norm=norm)
    assert float(norm(delta)) == pytest.approx(rho, rel=1e-9)
    dot = sum(float((d * g).sum()) for d, g in zip(delta, gradients, strict=True))
    assert dot == pytest.approx(rho * float(norm(gradients)), rel=1e-9)


@given(sizes=shapes, rho=radius, eta=st.floats(1e-3, 1), seed=seeds, data=st.data())
@settings(max_examples=50)
def test_adaptive_l2_has_the_norm_rho_in_units_of_the_weights(
    sizes: list[list[int]], rho: float, eta: float, seed: int, data: Any
) -> None:
    gradients, weights = _draw(sizes, seed)
    biases = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    delta = adaptive_l2(gradients, weights, [rho] * len(sizes), eta=eta, biases=biases, norm=norm)
    units = [torch.ones_like(w) if bias else w.abs() + eta for w, bias in zip(weights, biases, strict=True)]
    relative = [d / unit for d, unit in zip(delta, units, strict=True)]
    assert float(norm(relative)) == pytest.approx(rho, rel=1e-9)
    # The steepest ascent in that ball: along T g in the scaled coordinates.
    dot = sum(float((r * unit * g).sum()) for r, unit, g in zip(relative, units, gradients, strict=True))
    steepest = rho * float(norm([unit * g for unit, g in zip(units, gradients, strict=True)]))
    assert dot == pytest.approx(steepest, rel=1e-9)


@given(sizes=shapes, rho=radius, seed=seeds)
@settings(max_examples=50)
def test_linf_moves_every_weight_by_rho(sizes: list[list[int]], rho: float, seed: int) -> None:
    gradients, weights = _draw(sizes, seed)
    gradients[0].flatten()[0] = 0
    delta = linf(gradients, weights, [rho] * len(sizes), norm=norm)
    flat = torch.cat([d.flatten() for d in delta])
    assert float(flat.abs().max()) <= rho * (1 + 1e-12)
    assert float(flat[0]) == 0
    assert all(float(abs(entry)) == pytest.approx(rho) for entry in flat[1:])


@given(sizes=shapes, rho=radius, scale=st.floats(1e-6, 1e6), seed=seeds, name=st.sampled_from(sorted(DIRECTIONS)))
@settings(max_examples=60)
def test_a_constant_on_the_gradient_is_not_noticed(
    sizes: list[list[int]], rho: float, scale: float, seed: int, name: str
) -> None:
    """As a GradScaler's is not, nor the number of replicas gradients were summed over."""
    gradients, weights = _draw(sizes, seed)
    arguments: dict[str, Any] = {"eta": 0.01, "biases": [False] * len(sizes), "norm": norm}
    plain = DIRECTIONS[name](gradients, weights, [rho] * len(sizes), **arguments)
    scaled = DIRECTIONS[name]([g * scale for g in gradients], weights, [rho] * len(sizes), **arguments)
    for one, other in zip(plain, scaled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@given(factor=st.floats(0.05, 20), seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_adaptive_l2_does_not_notice_that_a_layer_is_rescaled(factor: float, seed: int) -> None:
    """A ReLU network whose layers are scaled against each other is the same function; so is its worst neighbour."""
    torch.manual_seed(seed)
    x, y = torch.randn(8, 4, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    first, second = torch.randn(6, 4, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)

    def worst(scale: float, direction: Any) -> float:
        weights = [(first * scale).requires_grad_(), (second / scale).requires_grad_()]

        def loss(a: Tensor, b: Tensor) -> Tensor:
            return nn.functional.mse_loss((x @ a.T).relu() @ b.T, y)

        gradients = torch.autograd.grad(loss(*weights), weights)
        delta = direction(gradients, weights, [0.1, 0.1], eta=0.0, biases=[False, False], norm=norm)
        return loss(*(w + d for w, d in zip(weights, delta, strict=True))).item()

    assert worst(factor, adaptive_l2) == pytest.approx(worst(1.0, adaptive_l2), rel=1e-6)
    if abs(factor - 1) > 0.5:
        assert worst(factor, l2) != pytest.approx(worst(1.0, l2), rel=1e-6)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_at_a_stationary_point_nothing_moves(name: str) -> None:
    zeros = [torch.zeros(3, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)]
    delta = DIRECTIONS[name](zeros, [z + 1 for z in zeros], [0.1, 0.1], eta=0.01, biases=[False] * 2, norm=norm)
    assert all(torch.equal(d, z) for d, z in zip(delta, zeros, strict=True))


@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize("radii", [[0.1, 0.1], [0.1, 0.3]])
def test_arguments_are_left_alone_and_results_are_new(name: str, radii: list[float]) -> None:
    gradients, weights = _draw([[3], [2, 2]], 0)
    kept = [tensor.clone() for tensor in gradients + weights]
    delta = DIRECTIONS[name](gradients, weights, radii, eta=0.01, biases=[False, True], norm=norm)
    assert all(torch.equal(one, other) for one, other in zip(gradients + weights, kept, strict=True))
    storages = {tensor.data_ptr() for tensor in gradients + weights}
    assert not storages & {d.data_ptr() for d in delta}
    single = [
        DIRECTIONS[name](gradients, weights, [rho] * 2, eta=0.01, biases=[False, True], norm=norm) for rho in radii
    ]
    for position in range(2):
        torch.testing.assert_close(delta[position], single[position][position])


@pytest.mark.parametrize("name", DIRECTIONS)
def test_nothing_to_move_is_an_empty_list(name: str) -> None:
    assert DIRECTIONS[name]([], [], [], eta=0.01, biases=[], norm=norm) == []


@pytest.mark.parametrize("name", DIRECTIONS)
def test_complex_gradients_point_up(name: str) -> None:
    weight = torch.tensor([1 + 2j, -0.5j], dtype=torch.complex128, requires_grad=True)

    def loss(w: Tensor) -> Tensor:
        return ((w * torch.tensor([1.0, 3.0])).abs() ** 2).sum()

    gradients = list(torch.autograd.grad(loss(weight), [weight]))

    def modulus(tensors: Sequence[Tensor]) -> Tensor:
        return norm([torch.view_as_real(t) if t.is_complex() else t for t in tensors])

    (delta,) = DIRECTIONS[name](gradients, [weight], [1e-3], eta=0.01, biases=[False], norm=modulus)
    assert loss(weight + delta).item() > loss(weight).item()
    largest = float(delta.abs().max()) if name == "linf" else float(modulus([delta]))
    if name != "adaptive_l2":
        assert largest == pytest.approx(1e-3)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_each_is_found_by_its_name(name: str) -> None:
    assert thunderstone.strategy("sharpness.perturbation", name) is DIRECTIONS[name]
