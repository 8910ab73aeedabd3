"""The line between two networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from thunderstone import ArgumentError
from thunderstone_pruning.stability import Interpolation, distance_and_angle, interpolate


def scalar(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor([[value]])}


def test_the_error_between_two_wells() -> None:
    """(w^2 - 1)^2 is 0 at both ends and 1 halfway."""
    net = nn.Linear(1, 1, bias=False)
    found = interpolate(net, scalar(1.0), scalar(-1.0), lambda m: ((m.weight**2 - 1) ** 2).item(), points=5)
    assert found.alphas == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert found.errors == pytest.approx((0, 0.5625, 1, 0.5625, 0))
    assert found.instability == pytest.approx(1)


def test_the_barrier_is_above_the_mean_of_the_ends() -> None:
    assert Interpolation((0.0, 0.5, 1.0), (0.1, 0.3, 0.2)).instability == pytest.approx(0.15)
    assert Interpolation((0.0, 0.5, 1.0), (0.1, 0.05, 0.2)).instability == pytest.approx(0.05)


def test_thirty_points_and_the_ends_are_the_networks_themselves() -> None:
    torch.manual_seed(0)
    net, one, two = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(3))
    seen: list[dict[str, torch.Tensor]] = []

    def error(module: nn.Module) -> float:
        assert not any(layer.training for layer in module.modules())
        seen.append({name: value.clone() for name, value in module.state_dict().items()})
        return 0.0

    found = interpolate(net, one.state_dict(), two.state_dict(), error)
    assert len(found.alphas) == len(seen) == 30
    assert all(seen[0][name].equal(value) for name, value in two.state_dict().items())
    assert all(seen[-1][name].equal(value) for name, value in one.state_dict().items())
    torch.testing.assert_close(seen[10]["0.weight"], (10 * one[0].weight + 19 * two[0].weight).detach() / 29)


def test_running_statistics_are_those_of_the_network_between() -> None:
    torch.manual_seed(0)
    net, one, two = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double() for _ in range(3))
    batches = [torch.randn(8, 3, dtype=torch.float64) for _ in range(3)]
    means = []
    random = torch.get_rng_state()
    interpolate(
        net,
        one.state_dict(),
        two.state_dict(),
        lambda module: means.append(module[1].running_mean.clone()) or 0.0,
        points=3,
        batches=[[batch, torch.zeros(8)] for batch in batches],
    )
    weight, bias = ((getattr(one[0], name) + getattr(two[0], name)) / 2 for name in ("weight", "bias"))
    torch.testing.assert_close(means[1], torch.stack([(x @ weight.T + bias).mean(0) for x in batches]).mean(0).detach())
    assert means[0].equal(torch.zeros(4, dtype=torch.float64))
    assert torch.get_rng_state().equal(random)


def test_the_module_is_as_before_also_after_a_failure() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Dropout(0.5))
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    other = {name: value + 1 for name, value in before.items()}

    def failing(module: nn.Module) -> float:
        raise RuntimeError("no error to be had")

    with pytest.raises(RuntimeError, match="no error"):
        interpolate(net, other, other, failing)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert [layer.training for layer in net] == [True, True, False]


def test_states_of_another_module() -> None:
    net = nn.Linear(2, 2)
    with pytest.raises(ArgumentError, match="interpolate: second='bias' is not allowed: the module has no such state"):
        interpolate(net, net.state_dict(), {"weight": net.weight}, lambda _: 0.0)
    with pytest.raises(ArgumentError, match="first='weight'"):
        interpolate(net, {**net.state_dict(), "weight": torch.zeros(3, 2)}, net.state_dict(), lambda _: 0.0)
    with pytest.raises(ArgumentError, match="points=1"):
        interpolate(net, net.state_dict(), net.state_dict(), lambda _: 0.0, points=1)


def test_distance_and_angle() -> None:
    one = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[0.0]])}
    two = {"a": torch.tensor([0.0, 0.0]), "b": torch.tensor([[4.0]])}
    assert distance_and_angle(one, two) == pytest.approx((5, 90))
    assert distance_and_angle(one, one) == (0, 0)
    tiny = {"a": torch.tensor([math.cos(1e-9), math.sin(1e-9)], dtype=torch.float64)}
    assert distance_and_angle(tiny, {"a": torch.tensor([1.0, 0.0])})[1] == pytest.approx(math.degrees(1e-9), rel=1e-6)
    assert distance_and_angle(one, two, names=["b", "a"])[0] == pytest.approx(5)
    assert math.isnan(distance_and_angle(one, {"a": torch.zeros(2), "b": torch.zeros(1, 1)})[1])
    with pytest.raises(ArgumentError, match="distance_and_angle: names='c' is not allowed: they are not in both"):
        distance_and_angle(one, two, names=["a", "c"])
    with pytest.raises(ArgumentError, match="names='a' is not allowed: they differ in shape"):
        distance_and_angle(one, {**two, "a": torch.zeros(3)})


def test_the_figure_shows_the_line() -> None:
    found = Interpolation((0.0, 0.5, 1.0), (0.1, 0.3, 0.2))
    (axes,) = found.figure().axes
    assert list(axes.lines[0].get_ydata()) == [0.1, 0.3, 0.2]
    assert "0.150" in axes.get_title()
