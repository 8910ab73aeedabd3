"""Loss landscapes: the values, the directions, and that a figure can be drawn of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from matplotlib.figure import Figure
from torch import Tensor, nn

from thunderstone import ArgumentError
from thunderstone_sharpness.measures import (
    MeasureError,
    filter_normalised,
    hessian_eigenvalues,
    loss_landscape,
)


def test_filters_of_a_direction_are_as_long_as_those_of_the_weights() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Linear(5, 6))
    with torch.no_grad():
        module[2].weight[1].zero_()
    weights = [parameter.detach() for parameter in module.parameters()]
    direction = filter_normalised(weights, torch.Generator().manual_seed(0))
    for step, weight in zip(direction, weights, strict=True):
        assert step.shape == weight.shape
        if weight.ndim == 1:
            assert not step.any()
        else:
            torch.testing.assert_close(step.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    assert not direction[4][1].any()


def test_values_are_the_loss_at_the_displaced_weights(network: Any, batches: Any, loss: Any) -> None:
    along = [torch.randn_like(parameter) for parameter in network.parameters()]
    across = [torch.randn_like(parameter) for parameter in network.parameters()]
    found = loss_landscape(network, batches, loss, directions=[along, across], points=3, span=0.5)
    assert found.losses.shape == (3, 3)
    assert found.kind == "given"
    network.eval()
    weights = [parameter.detach().clone() for parameter in network.parameters()]
    with torch.no_grad():
        for i, a in enumerate((-0.5, 0.0, 0.5)):
            for j, b in enumerate((-0.5, 0.0, 0.5)):
                for parameter, weight, one, other in zip(network.parameters(), weights, along, across, strict=True):
                    parameter.copy_(weight + a * one + b * other)
                total = sum(loss(network, batch).item() * len(batch[1]) for batch in batches) / 48
                assert found.losses[i, j] == pytest.approx(total, rel=1e-9)
    assert found.losses[1, 1] == pytest.approx(found.centre, rel=1e-12)


def test_eigenvectors_show_the_curvature_that_was_found(network: Any, batches: Any, loss: Any) -> None:
    eigen = hessian_eigenvalues(network, batches, loss, k=2)
    found = loss_landscape(
        network, batches, loss, directions="eigenvectors", dimensions=2, points=3, span=1e-3, eigen=eigen
    )
    middle = found.losses[:, 1]
    curvature = (middle[0] - 2 * middle[1] + middle[2]) / 1e-6
    assert curvature == pytest.approx(eigen.values[0], rel=1e-3)
    assert found.eigenvalues == eigen.values
    # Without a span the picture reaches as far as the quadratic model rises by one.
    wide = loss_landscape(network, batches, loss, directions="eigenvectors", points=3)
    assert 0.5 * wide.eigenvalues[0] * wide.coordinates[0][-1] ** 2 == pytest.approx(1.0)


def test_random_directions_are_the_same_in_every_call(network: Any, batches: Any, loss: Any) -> None:
    first = loss_landscape(network, batches, loss, points=5)
    assert np.array_equal(first.losses, loss_landscape(network, batches, loss, points=5).losses)
    other = loss_landscape(network, batches, loss, points=5, generator=torch.Generator().manual_seed(9))
    assert not np.array_equal(first.losses, other.losses)
    assert first.losses.min() < first.losses.max()


@pytest.mark.parametrize("directions", ["random", "eigenvectors"])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_figures(network: Any, batches: Any, loss: Any, directions: str, dimensions: int, tmp_path: Any) -> None:
    found = loss_landscape(network, batches, loss, directions=directions, dimensions=dimensions, points=5)
    figure = found.figure("A title")
    assert isinstance(figure, Figure)
    axes = figure.axes[0]
    assert axes.get_title() == "A title"
    if dimensions == 1:
        assert np.allclose(axes.lines[0].get_ydata(), found.losses)
    else:
        low, high = figure.axes[1].get_ylim()
        assert low <= found.losses.min() * 1.01
        assert high >= found.losses.max() * 0.99
    if directions == "eigenvectors":
        assert f"{found.eigenvalues[0]:.3g}" in axes.get_xlabel()
    figure.savefig(tmp_path / "landscape.png")
    assert (tmp_path / "landscape.png").stat().st_size > 5000
    assert not Gcf.get_all_fig_managers()  # Nothing that pyplot would show or keep.


def test_overflow_far_away_is_left_out_of_the_picture(network: Any, batches: Any, loss: Any, tmp_path: Any) -> None:
    origin = network.net[0].weight.detach().clone()

    def cliff(module: Any, batch: Any) -> Tensor:
        far = (module.net[0].weight - origin).norm() > 0.6 * origin.norm()
        return loss(module, batch) * (float("nan") if far else 1.0)

    for dimensions in (1, 2):
        found = loss_landscape(network, batches, cliff, dimensions=dimensions, points=5)
        assert np.isnan(found.losses).any()
        assert np.isfinite(found.losses).any()
        found.figure().savefig(tmp_path / f"{dimensions}.png")


def test_constant_loss_has_a_flat_picture(network: Any, batches: Any, tmp_path: Any) -> None:
    found = loss_landscape(network, batches, lambda m, b: m(b[0]).sum() * 0, dimensions=2, points=3)
    assert not found.losses.any()
    found.figure().savefig(tmp_path / "flat.png")


def test_bad_arguments_are_refused(network: Any, batches: Any, loss: Any) -> None:
    with pytest.raises(ArgumentError, match=r"points=4.*odd"):
        loss_landscape(network, batches, loss, points=4)
    with pytest.raises(ArgumentError, match=r"directions='randm'.*Did you mean 'random'"):
        loss_landscape(network, batches, loss, directions="randm")
    with pytest.raises(ArgumentError, match="dimensions=3"):
        loss_landscape(network, batches, loss, dimensions=3)
    with pytest.raises(ArgumentError, match="span=-1"):
        loss_landscape(network, batches, loss, span=-1)
    with pytest.raises(MeasureError, match="does not have the shapes"):
        loss_landscape(network, batches, loss, directions=[[torch.ones(2)]])
    with pytest.raises(ArgumentError, match="directions='0 lists'"):
        loss_landscape(network, batches, loss, directions=[])
    eigen = hessian_eigenvalues(network, batches, loss)
    with pytest.raises(ArgumentError, match=r"it holds 1 eigenvectors, and dimensions=2"):
        loss_landscape(network, batches, loss, directions="eigenvectors", dimensions=2, eigen=eigen)
