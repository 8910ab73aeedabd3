"""Curvature against dense Hessians and closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from thunderstone import ArgumentError
from thunderstone_sharpness.measures import HessianTrace, MeasureError, hessian_eigenvalues, hessian_trace


def dense_hessian(module: nn.Module, batches: Any, loss: Any) -> Tensor:
    """The Hessian of the mean loss over all examples, by torch's own double differentiation of a flat function."""
    module.eval()
    names = [name for name, _ in module.named_parameters()]
    parameters = [parameter.detach() for parameter in module.parameters()]
    x, y = (torch.cat(column) for column in zip(*batches, strict=True))

    def flat_loss(flat: Tensor) -> Tensor:
        pieces = flat.split([parameter.numel() for parameter in parameters])
        values = {n: v.view_as(p) for n, v, p in zip(names, pieces, parameters, strict=True)}
        return nn.functional.cross_entropy(functional_call(module, values, (x,)), y)

    return torch.autograd.functional.hessian(flat_loss, torch.cat([p.flatten() for p in parameters]))


def test_eigenvalues_match_the_dense_decomposition(network: Any, batches: Any, loss: Any) -> None:
    found = hessian_eigenvalues(network, batches, loss, k=3)
    lowest = hessian_eigenvalues(network, batches, loss, k=2, which="smallest")
    biggest = hessian_eigenvalues(network, batches, loss, k=1, which="magnitude")
    hessian = dense_hessian(network, batches, loss)
    exact = torch.linalg.eigvalsh(hessian)
    assert len(hessian) > 32  # Lanczos, not the dense way out of small problems.
    torch.testing.assert_close(torch.tensor(found.values).double(), exact.flip(0)[:3], rtol=1e-3, atol=0)
    torch.testing.assert_close(torch.tensor(lowest.values).double(), exact[:2], rtol=1e-3, atol=0)
    assert biggest.values[0] == pytest.approx(float(exact[exact.abs().argmax()]), rel=1e-3)
    assert found.products < 3 * len(hessian)


def test_residuals_and_vectors_are_those_of_the_hessian(network: Any, batches: Any, loss: Any) -> None:
    found = hessian_eigenvalues(network, batches, loss, k=2, tolerance=1e-2)
    hessian = dense_hessian(network, batches, loss)
    exact = torch.linalg.eigvalsh(hessian)
    for value, residual, vector in zip(found.values, found.residuals, found.vectors, strict=True):
        flat = torch.cat([tensor.flatten() for tensor in vector])
        assert flat.norm().item() == pytest.approx(1, abs=1e-9)
        assert (hessian @ flat - value * flat).norm().item() == pytest.approx(residual, abs=1e-8)
        assert (exact - value).abs().min().item() <= residual + 1e-9
    assert [tensor.shape for tensor in found.vectors[0]] == [p.shape for p in network.parameters()]
    assert list(found.names) == [name for name, _ in network.named_parameters()]


def test_largest_is_the_most_positive_not_the_largest_in_magnitude() -> None:
    curvature = torch.cat([torch.tensor([2.0, -9.0]), torch.linspace(-1, 1, 60)]).double()
    module = nn.Linear(62, 1, bias=False).double()

    def saddle(owner: Any, h: Tensor) -> Tensor:
        return 0.5 * (h * owner.weight[0] ** 2).sum()

    assert hessian_eigenvalues(module, [curvature], saddle).values[0] == pytest.approx(2.0, rel=1e-6)
    assert hessian_eigenvalues(module, [curvature], saddle, which="magnitude").values[0] == pytest.approx(-9.0)
    assert hessian_eigenvalues(module, [curvature], saddle, which="smallest").values[0] == pytest.approx(-9.0)


def test_single_precision_is_accurate_enough(network: Any, batches: Any, loss: Any) -> None:
    exact = float(torch.linalg.eigvalsh(dense_hessian(network, batches, loss))[-1])
    network.float()
    found = hessian_eigenvalues(network, [(x.float(), y) for x, y in batches], loss)
    assert found.values[0] == pytest.approx(exact, rel=1e-3)
    assert found.residuals[0] < 1e-2 * exact


def test_examples_count_alike_whatever_their_batch(network: Any, batches: Any, loss: Any) -> None:
    whole = [tuple(torch.cat(column) for column in zip(*batches, strict=True))]
    split, joint = hessian_eigenvalues(network, batches, loss), hessian_eigenvalues(network, whole, loss)
    assert split.values[0] == pytest.approx(joint.values[0], rel=1e-6)
    assert hessian_trace(network, batches, loss, draws=2).value == pytest.approx(
        hessian_trace(network, whole, loss, draws=2).value, rel=1e-9
    )


def test_flat_and_tiny_problems() -> None:
    big, small = nn.Linear(50, 1).double(), nn.Linear(1, 1, bias=False).double()
    x = torch.ones(2, 50, dtype=torch.float64)
    linear = hessian_eigenvalues(big, [x], lambda m, b: m(b).sum(), k=2)
    assert linear.values == (0.0, 0.0)
    assert linear.residuals == (0.0, 0.0)
    assert hessian_trace(big, [x], lambda m, b: m(b).sum(), draws=2).value == 0.0
    one = torch.full((1, 1), 3.0, dtype=torch.float64)
    assert hessian_eigenvalues(small, [one], lambda m, b: m(b).square().mean()).values == (18.0,)
    with pytest.raises(MeasureError, match=r"k=2 eigenvalues of a Hessian with 1 rows.*at most 1"):
        hessian_eigenvalues(small, [one], lambda m, b: m(b).square().mean(), k=2)


def test_parameter_that_is_not_used_has_no_curvature(network: Any, batches: Any, loss: Any) -> None:
    before = hessian_eigenvalues(network, batches, loss).values[0]
    network.unused = nn.Linear(3, 3).double()
    assert hessian_eigenvalues(network, batches, loss).values[0] == pytest.approx(before, rel=1e-6)


def test_frozen_parameters_do_not_count(network: Any, batches: Any, loss: Any) -> None:
    network.net[0].requires_grad_(False)
    network.net[1].requires_grad_(False)
    found = hessian_eigenvalues(network, batches, loss)
    assert found.names == ("net.4.weight", "net.4.bias")
    exact = torch.linalg.eigvalsh(dense_hessian(network, batches, loss)[-27:, -27:])
    assert found.values[0] == pytest.approx(float(exact[-1]), rel=1e-6)


def test_trace_lies_within_its_standard_error(network: Any, batches: Any, loss: Any) -> None:
    exact = float(dense_hessian(network, batches, loss).trace())
    network.train()
    scores = []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        estimate = hessian_trace(network, batches, loss, draws=12, generator=generator)
        scores.append((estimate.value - exact) / estimate.standard_error)
    assert max(abs(score) for score in scores) < 4
    assert abs(sum(scores)) / len(scores) ** 0.5 < 3
    many = hessian_trace(network, batches, loss, draws=100)
    assert abs(many.value - exact) < 2 * many.standard_error < 0.3 * exact


def test_trace_of_a_diagonal_hessian_is_exact() -> None:
    module = nn.Linear(6, 1, bias=False).double()
    curvature = torch.tensor([3.0, -1.0, 2.0, 0.0, 5.0, 1.0], dtype=torch.float64)
    estimate = hessian_trace(module, [curvature], lambda m, h: 0.5 * (h * m.weight[0] ** 2).sum(), draws=3)
    assert estimate.value == pytest.approx(10.0, rel=1e-12)
    assert estimate.standard_error < 1e-12


def test_trace_metric_weighs_batches_by_their_examples(network: Any, batches: Any, loss: Any) -> None:
    metric = HessianTrace(loss, draws=5)
    for batch in batches:
        metric.update(network, batch)
    whole = hessian_trace(network, batches, loss, draws=5)
    assert metric.compute().item() == pytest.approx(whole.value, rel=1e-5)
    assert metric.estimate().standard_error == pytest.approx(whole.standard_error, rel=1e-4)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 12).double()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).unsqueeze(1).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(q, k, v)


def test_fused_attention_is_replaced_by_one_that_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    module, x = Attention(), torch.randn(2, 5, 4, dtype=torch.float64)

    def loss(owner: nn.Module, batch: Tensor) -> Tensor:
        return owner(batch).square().mean()

    # The premise: without help this module has no second derivative.
    gradient = torch.autograd.grad(loss(module, x), list(module.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match="derivative for aten::_scaled_dot_product"):
        torch.autograd.grad(gradient[0].sum(), list(module.parameters()))
    found = hessian_eigenvalues(module, [x], loss)
    assert found.residuals[0] < 1e-3 * found.values[0]


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


@pytest.mark.parametrize("measure", [hessian_eigenvalues, hessian_trace])
def test_operation_without_a_second_derivative_is_named(
    network: Any, batches: Any, measure: Any, snapshot: Any
) -> None:
    before = snapshot(network)
    with pytest.raises(MeasureError, match=rf"{measure.__name__}: the loss has no second derivative: .*once_differen"):
        measure(network, batches, lambda m, b: Once.apply(m(b[0])).mean())
    before.assert_same()


class Silent(torch.autograd.Function):
    """Fails without a word when it is differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise RuntimeError


def test_an_error_without_a_message_is_named_by_its_kind(network: Any, batches: Any) -> None:
    with pytest.raises(MeasureError, match="the loss cannot be differentiated: RuntimeError"):
        hessian_trace(network, batches, lambda m, b: Silent.apply(m(b[0])).mean())


def test_bad_arguments_are_refused(network: Any, batches: Any, loss: Any) -> None:
    with pytest.raises(ArgumentError, match="k=0"):
        hessian_eigenvalues(network, batches, loss, k=0)
    with pytest.raises(ArgumentError, match=r"which='larges'.*Did you mean 'largest'"):
        hessian_eigenvalues(network, batches, loss, which="larges")
    with pytest.raises(ArgumentError, match="tolerance=0"):
        hessian_eigenvalues(network, batches, loss, tolerance=0)
    with pytest.raises(ArgumentError, match="draws=0"):
        hessian_trace(network, batches, loss, draws=0)


def test_lanczos_that_does_not_converge_says_so() -> None:
    module = nn.Linear(500, 1, bias=False).double()
    crowded = torch.linspace(0, 1, 500, dtype=torch.float64)
    with pytest.raises(MeasureError, match=r"Lanczos found 0 of k=1 eigenvalues.*raise max_iterations"):
        hessian_eigenvalues(module, [crowded], lambda m, h: (h * m.weight[0] ** 2).sum(), max_iterations=1)
