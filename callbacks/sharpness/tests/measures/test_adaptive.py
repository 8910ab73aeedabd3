"""Adaptive sharpness against closed forms and against search at random."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from thunderstone import ArgumentError
from thunderstone_sharpness.measures import (
    AdaptiveSharpness,
    AverageSharpness,
    MeasureError,
    adaptive_sharpness,
    apgd,
    average_sharpness,
    normalised_logits,
)


class Weights(nn.Module):
    """Nothing but a vector of weights, in two tensors."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        middle = len(values) // 2
        self.first = nn.Parameter(torch.tensor(values[:middle], dtype=torch.float64))
        self.second = nn.Parameter(torch.tensor(values[middle:], dtype=torch.float64))

    def flat(self) -> Tensor:
        return torch.cat([self.first, self.second])


W = [1.0, -2.0, 0.0, 0.5, 3.0]
C = torch.tensor([2.0, 1.0, 5.0, -4.0, 0.5], dtype=torch.float64)
ABS = torch.tensor(W, dtype=torch.float64).abs()


def linear(module: Any, slope: Tensor) -> Tensor:
    return module.flat() @ slope


def quadratic(module: Any, curvature: Tensor) -> Tensor:
    return 0.5 * (curvature * module.flat() ** 2).sum()


@pytest.mark.parametrize("rho", [1e-3, 0.1, 2.0])
def test_linear_loss_has_the_dual_norm_as_worst_case(rho: float) -> None:
    linf = adaptive_sharpness(Weights(W), [C], linear, rho=rho, norm="linf")
    assert linf == pytest.approx(rho * float((ABS * C.abs()).sum()), rel=1e-9)
    l2 = adaptive_sharpness(Weights(W), [C], linear, rho=rho, norm="l2")
    assert l2 == pytest.approx(rho * float((ABS * C).norm()), rel=1e-6)


def test_quadratic_loss_has_its_worst_case_at_a_corner() -> None:
    rho = 0.2
    expected = float((0.5 * C.abs() * ABS**2).sum()) * (2 * rho + rho**2)
    assert adaptive_sharpness(Weights(W), [C.abs()], quadratic, rho=rho) == pytest.approx(expected, rel=1e-9)


def test_quadratic_loss_with_equal_terms_moves_every_weight_alike_in_l2() -> None:
    rho, weights = 0.3, [1.0, -2.0, 0.5, 4.0]
    curvature = 3.0 / torch.tensor(weights, dtype=torch.float64) ** 2
    found = adaptive_sharpness(Weights(weights), [curvature], quadratic, rho=rho, norm="l2")
    assert found == pytest.approx(0.5 * 3.0 * (2 * math.sqrt(4) * rho + rho**2), rel=1e-6)


def test_worst_case_is_found_from_a_stationary_point() -> None:
    def bowl(module: Any, target: Tensor) -> Tensor:
        return 0.5 * ((module.flat() - target) ** 2).sum()

    at_minimum = torch.tensor(W, dtype=torch.float64)
    found = adaptive_sharpness(Weights(W), [at_minimum], bowl, rho=0.1)
    assert found == pytest.approx(0.5 * float((0.1 * ABS).square().sum()), rel=1e-9)


def test_concave_loss_is_never_below_zero() -> None:
    module = Weights(W)
    top = module.flat().detach().clone()
    found = adaptive_sharpness(module, [top], lambda m, t: -((m.flat() - t) ** 2).sum(), rho=0.1)
    assert 0 <= found < 1e-12


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_at_least_a_thousand_random_perturbations(network: Any, batches: Any, loss: Any, norm: str) -> None:
    rho = {"linf": 0.1, "l2": 0.5}[norm]
    found = adaptive_sharpness(network, batches[:1], loss, rho=rho, norm=norm)
    network.eval()
    weights = [parameter.detach().clone() for parameter in network.parameters()]
    generator = torch.Generator().manual_seed(5)
    highest = -math.inf
    with torch.no_grad():
        centre = loss(network, batches[0]).item()
        for trial in range(1000):
            noise = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
            if norm == "linf":
                # Half of them corners: the inside of a box is almost never near the worst point.
                noise = [n.sign() if trial % 2 else n.clamp(-1, 1) for n in noise]
            else:
                length = torch.cat([n.flatten() for n in noise]).norm()
                noise = [n / length for n in noise]
            for parameter, weight, step in zip(network.parameters(), weights, noise, strict=True):
                parameter.copy_(weight + rho * weight.abs() * step)
            highest = max(highest, loss(network, batches[0]).item() - centre)
    assert 0 < highest < found


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_perturbation_stays_in_the_ball_and_zeros_stay_zero(norm: str) -> None:
    module, rho = Weights(W), 0.25
    origin = module.flat().detach().clone()
    seen: list[Tensor] = []

    def watched(owner: Any, slope: Tensor) -> Tensor:
        seen.append(owner.flat().detach().clone())
        return (owner.flat() * slope).sin().sum()

    adaptive_sharpness(module, [C], watched, rho=rho, norm=norm)
    assert len(seen) == 22
    for weights in seen:
        moved = (weights - origin)[ABS > 0] / ABS[ABS > 0]
        assert float(moved.abs().max() if norm == "linf" else moved.norm()) <= rho * (1 + 1e-9)
        assert weights[2].item() == 0.0
    assert max(float((weights - origin).abs().max()) for weights in seen) > 0.1


def test_mean_over_batches_is_taken_of_separate_maxima() -> None:
    values = [adaptive_sharpness(Weights(W), [slope], linear, rho=0.1) for slope in (C, -C)]
    both = adaptive_sharpness(Weights(W), [C, -C], linear, rho=0.1)
    assert both == pytest.approx(sum(values) / 2)
    joint = adaptive_sharpness(Weights(W), [torch.zeros_like(C)], linear, rho=0.1)
    assert joint == 0.0  # The two slopes cancel: the order of mean and maximum matters.


def test_more_steps_and_restarts_never_lower_the_value(network: Any, batches: Any, loss: Any) -> None:
    one = adaptive_sharpness(network, batches[:1], loss, rho=0.3, steps=1)
    five = adaptive_sharpness(network, batches[:1], loss, rho=0.3, steps=20)
    assert five >= one > 0
    many = adaptive_sharpness(network, batches[:1], loss, rho=0.3, steps=20, restarts=3)
    assert many >= five


@settings(max_examples=25)
@given(
    scale=st.floats(0.01, 100),
    norm=st.sampled_from(["linf", "l2"]),
)
def test_rescaling_two_layers_against_each_other_changes_nothing(scale: float, norm: str) -> None:
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False)).double()
    x = torch.randn(10, 3, dtype=torch.float64)

    def mean_square(owner: nn.Module, batch: Tensor) -> Tensor:
        return (owner(batch) - 1).square().mean()

    before = adaptive_sharpness(module, [x], mean_square, rho=0.1, norm=norm, steps=5)
    with torch.no_grad():
        module[0].weight.mul_(scale)
        module[2].weight.div_(scale)
    assert adaptive_sharpness(module, [x], mean_square, rho=0.1, norm=norm, steps=5) == pytest.approx(before, rel=1e-6)


def test_apgd_halves_its_step_where_it_would_oscillate() -> None:
    points: list[float] = []

    def hat(point: list[Tensor]) -> tuple[float, list[Tensor]]:
        position = point[0].item()
        points.append(position)
        return -abs(position - 0.3), [torch.tensor([-math.copysign(1.0, position - 0.3)])]

    value, where = apgd(hat, [torch.tensor([0.9])], rho=1.0, steps=60)
    assert value > -0.02
    assert where[0].item() == pytest.approx(0.3, abs=0.02)
    assert all(abs(point) <= 1.0 for point in points)


def test_average_case_of_a_quadratic_is_exact() -> None:
    rho = 0.3
    exact = 0.5 * rho**2 * float((C.abs() * ABS**2).sum())
    estimate = average_sharpness(Weights(W), [C.abs()], quadratic, rho=rho, draws=2000)
    assert abs(estimate.value - exact) < 4 * estimate.standard_error < 0.5 * exact
    assert estimate.draws == 2000


def test_average_case_of_a_linear_loss_is_zero_without_sampling_error() -> None:
    estimate = average_sharpness(Weights(W), [C], linear, rho=0.3, draws=3)
    assert abs(estimate.value) < 1e-12
    assert estimate.standard_error < 1e-12


def test_average_case_standard_error_is_the_spread_of_the_estimate() -> None:
    rho, exact = 0.3, 0.5 * 0.3**2 * float((C.abs() * ABS**2).sum())
    scores = []
    for seed in range(150):
        generator = torch.Generator().manual_seed(seed)
        estimate = average_sharpness(Weights(W), [C.abs()], quadratic, rho=rho, draws=40, generator=generator)
        scores.append((estimate.value - exact) / estimate.standard_error)
    spread = torch.tensor(scores)
    assert abs(float(spread.mean())) < 0.4
    assert 0.8 < float(spread.std()) < 1.4


def test_average_case_leaves_zeros_at_zero() -> None:
    def watched(owner: Any, slope: Tensor) -> Tensor:
        assert owner.flat()[2].item() == 0.0
        return linear(owner, slope)

    assert average_sharpness(Weights(W), [C], watched, rho=0.5).draws == 10


def test_normalised_logits_make_the_scale_of_the_logits_irrelevant(network: Any, batches: Any, loss: Any) -> None:
    def scaled(module: Any, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(module.net(batch[0]), batch[1])

    plain = adaptive_sharpness(network, batches, scaled, rho=0.05)
    taken = adaptive_sharpness(network, batches, scaled, rho=0.05, normalise_logits="net")
    by_head = adaptive_sharpness(network, batches, scaled, rho=0.05, normalise_logits="net.4")
    assert taken == by_head
    with torch.no_grad():
        network.net[4].weight.mul_(10)
        network.net[4].bias.mul_(10)
    assert adaptive_sharpness(network, batches, scaled, rho=0.05, normalise_logits="net") == pytest.approx(taken)
    assert adaptive_sharpness(network, batches, scaled, rho=0.05) > 2 * plain


def test_normalised_logits_of_equal_logits_are_zero_with_a_finite_gradient() -> None:
    logits = torch.full((2, 3), 4.0, requires_grad=True)
    result = normalised_logits(logits)
    result.sum().backward()
    assert torch.equal(result, torch.zeros(2, 3))
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_normalise_logits_says_where_it_cannot(network: Any, batches: Any, loss: Any) -> None:
    with pytest.raises(ArgumentError, match=r"normalise_logits='net\.9'.*Did you mean"):
        adaptive_sharpness(network, batches, loss, rho=0.1, normalise_logits="net.9")
    with pytest.raises(ArgumentError, match="must be a bool or a name"):
        adaptive_sharpness(network, batches, loss, rho=0.1, normalise_logits=3)  # type: ignore[arg-type]
    with pytest.raises(MeasureError, match=r"never called Network\.forward"):
        adaptive_sharpness(
            network,
            batches,
            lambda m, b: nn.functional.cross_entropy(m.net(b[0]), b[1]),
            rho=0.1,
            normalise_logits=True,
        )


def test_metrics_are_the_means_of_their_functions(network: Any, batches: Any, loss: Any) -> None:
    worst = AdaptiveSharpness(loss, rho=0.05, steps=5)
    average = AverageSharpness(loss, rho=0.1, draws=4)
    for batch in batches:
        worst.update(network, batch)
        average.update(network, batch)
    expected = [adaptive_sharpness(network, [batch], loss, rho=0.05, steps=5) for batch in batches]
    assert worst.compute().item() == pytest.approx(sum(expected) / 3, rel=1e-5)
    whole = average_sharpness(network, batches, loss, rho=0.1, draws=4)
    assert average.compute().item() == pytest.approx(whole.value, rel=1e-4)
    assert average.estimate().standard_error == pytest.approx(whole.standard_error, rel=1e-3)
    assert not list(worst.parameters())
    worst.reset()
    assert worst.batches.item() == 0


@pytest.mark.parametrize("rho", [0, -1.0, math.nan, math.inf, "0.1", True])
@pytest.mark.parametrize("measure", [adaptive_sharpness, average_sharpness])
def test_bad_rho_is_refused(network: Any, batches: Any, loss: Any, measure: Any, rho: Any) -> None:
    with pytest.raises(ArgumentError, match=rf"{measure.__name__}: rho="):
        measure(network, batches, loss, rho=rho)


def test_bad_choices_are_refused(network: Any, batches: Any, loss: Any) -> None:
    with pytest.raises(ArgumentError, match=r"norm='l3'.*Known names: l2, linf"):
        adaptive_sharpness(network, batches, loss, rho=0.1, norm="l3")
    with pytest.raises(ArgumentError, match="steps=0"):
        adaptive_sharpness(network, batches, loss, rho=0.1, steps=0)
    with pytest.raises(ArgumentError, match="draws=0"):
        average_sharpness(network, batches, loss, rho=0.1, draws=0)


def test_half_precision_weights_cannot_hold_a_small_radius() -> None:
    module = nn.Linear(2, 1).bfloat16()
    x = torch.ones(1, 2, dtype=torch.bfloat16)
    with pytest.raises(ArgumentError, match=r"weight is torch\.bfloat16.*float32 copy"):
        adaptive_sharpness(module, [x], lambda m, b: m(b).sum(), rho=0.001)
    assert adaptive_sharpness(module, [x], lambda m, b: m(b).sum(), rho=0.5) > 0
