"""The gradient in the mask against the exact one, by differentiating through the solution of the lower level."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from thunderstone_pruning.mask_gradient import mask_gradient

SIZE = 6
# The share by which the estimate is off in the mean of 50 problems, by |H| / gamma; documented in the method's card.
ERRORS = {0.01: 0.0055, 0.1: 0.054, 1.0: 0.49}


def lower_level(mask: Tensor, hessian: Tensor, centre: Tensor, gamma: float) -> Tensor:
    """argmin over theta of (m theta - c) H (m theta - c) / 2 + gamma |theta|^2 / 2."""
    system = mask[:, None] * hessian * mask + gamma * torch.eye(SIZE, dtype=mask.dtype)
    return torch.linalg.solve(system, mask * (hessian @ centre))


def exact_and_estimated(hessian: Tensor, centre: Tensor, mask: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    mask = mask.clone().requires_grad_()
    residual = mask * lower_level(mask, hessian, centre, gamma) - centre
    (exact,) = torch.autograd.grad(residual @ hessian @ residual / 2, mask)
    with torch.no_grad():
        weights = lower_level(mask, hessian, centre, gamma)
        gradient = hessian @ (mask * weights - centre)
        return exact, mask_gradient(weights, gradient, mask, 1 / gamma)


@given(
    st.lists(st.floats(-3, 3), min_size=SIZE, max_size=SIZE),
    st.lists(st.floats(-1, 2), min_size=SIZE, max_size=SIZE),
    st.floats(0.01, 100),
)
def test_it_is_exact_where_the_loss_is_linear(slopes, mask_values, gamma) -> None:
    """l(z) = c z: the lower level has the Hessian gamma I, and theta(m) = -m c / gamma."""
    slope = torch.tensor(slopes, dtype=torch.float64)
    mask = torch.tensor(mask_values, dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad((slope * mask * (-mask * slope / gamma)).sum(), mask)
    with torch.no_grad():
        found = mask_gradient(-mask * slope / gamma, slope, mask, 1 / gamma)
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


def problems(ratio: float) -> list[tuple[Tensor, Tensor, Tensor, float]]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(50):
        root = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
        hessian = root @ root.T
        hessian /= torch.linalg.matrix_norm(hessian, 2)
        centre = torch.randn(SIZE, generator=generator, dtype=torch.float64)
        mask = (torch.rand(SIZE, generator=generator) < 0.6).double()
        found.append((hessian, centre, mask, 1 / ratio))
    return found


def off_by(ratio: float) -> float:
    pairs = [exact_and_estimated(*problem) for problem in problems(ratio)]
    return sum(float((found - exact).norm() / exact.norm()) for exact, found in pairs if exact.norm()) / len(pairs)


@pytest.mark.parametrize("ratio", ERRORS)
def test_the_error_with_a_hessian_is_the_one_documented(ratio) -> None:
    assert off_by(ratio) == pytest.approx(ERRORS[ratio], rel=0.01)


def test_the_error_falls_with_the_hessian() -> None:
    errors = [off_by(ratio) for ratio in (1e-4, 1e-3, 1e-2)]
    assert errors[1] / errors[0] == pytest.approx(10, rel=0.02)
    assert errors[2] / errors[1] == pytest.approx(10, rel=0.1)


def test_without_the_implicit_part_it_is_the_plain_derivative() -> None:
    weights, gradient = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5])
    assert mask_gradient(weights, gradient, torch.tensor([True, False]), 0.0).tolist() == [3.0, -1.0]
    # Of a pruned weight the answer of the weights is nothing: its place is zero whatever it is.
    assert mask_gradient(weights, gradient, torch.tensor([True, False]), 0.1).tolist() == pytest.approx([2.1, -1.0])
