"""The metric: batches add up to the whole, on one process and on several, and it behaves like torchmetrics' own."""

from __future__ import annotations

import pickle
import socket

import pytest
import torch
from torch import distributed, multiprocessing

from thunderstone import ArgumentError, UnknownNameError
from thunderstone_estimators import SlicedWassersteinDistance, sliced_wasserstein_distance

SETTINGS = {"num_projections": 20, "control_variate": "upper", "directions": "orthogonal", "p": 1.5}


def expected(x, y):
    return sliced_wasserstein_distance(x, y, generator=torch.Generator().manual_seed(0), **SETTINGS)


def test_batches_add_up_to_the_whole(cloud):
    x, y = cloud(30, 4), cloud(25, 4, seed=1) + 1
    metric = SlicedWassersteinDistance(**SETTINGS)
    for i in range(5):
        metric.update(x[6 * i : 6 * i + 6], y[5 * i : 5 * i + 5])
    assert torch.equal(metric.compute(), expected(x, y))
    metric.reset()
    metric.update(x[:3], y[:4])
    assert torch.equal(metric.compute(), expected(x[:3], y[:4]))


def test_forward_gives_the_batch_and_keeps_the_whole(cloud):
    x, y = cloud(12, 4), cloud(12, 4, seed=1)
    metric = SlicedWassersteinDistance(**SETTINGS)
    first = metric(x[:6], y[:6])
    metric(x[6:], y[6:])
    assert torch.equal(first, expected(x[:6], y[:6]))
    assert torch.equal(metric.compute(), expected(x, y))


def test_it_survives_pickling(cloud):
    metric = SlicedWassersteinDistance(**SETTINGS)
    metric.update(cloud(5, 3), cloud(5, 3, seed=1))
    assert torch.equal(pickle.loads(pickle.dumps(metric)).compute(), metric.compute())


def test_it_is_differentiable(cloud):
    metric = SlicedWassersteinDistance(**SETTINGS)
    x = cloud(5, 3).requires_grad_()
    metric(x, cloud(6, 3, seed=1)).backward()
    assert metric.is_differentiable
    assert x.grad.abs().sum() > 0


def test_it_plots(cloud):
    from matplotlib import pyplot

    metric = SlicedWassersteinDistance(**SETTINGS)
    values = [metric(cloud(5, 3), cloud(5, 3, seed=1) + shift) for shift in range(3)]
    try:
        _, single = metric.plot()
        _, axis = metric.plot(values)
        assert len(axis.get_lines()[0].get_xdata()) == 3
        assert single is not axis
    finally:
        pyplot.close("all")


def _rank(rank, port, results):
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(rank)
    generator = torch.Generator().manual_seed(7)
    x, y = (torch.randn(11, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    metric = SlicedWassersteinDistance(**SETTINGS)
    # Different numbers of points on each rank.
    metric.update(*((x[:4], y[:7]) if rank == 0 else (x[4:], y[7:])))
    results[rank] = metric.compute().item()
    distributed.destroy_process_group()


@pytest.mark.ddp
def test_ranks_share_points_and_directions():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.start_processes(_rank, args=(port, results), nprocs=2, start_method="fork")
        values = dict(results)
    generator = torch.Generator().manual_seed(7)
    x, y = (torch.randn(11, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    assert values[0] == values[1] == pytest.approx(expected(x, y).item(), rel=1e-12)


@pytest.mark.parametrize(
    "change", [{"num_projections": 0}, {"p": 0.5}, {"directions": "sobol"}, {"seed": -1}, {"chunk": 0}]
)
def test_bad_arguments_are_named(change):
    with pytest.raises(ArgumentError, match="SlicedWassersteinDistance") as caught:
        SlicedWassersteinDistance(**change)
    assert caught.value.argument in change


def test_bad_points_are_named():
    metric = SlicedWassersteinDistance()
    for x, argument in ((torch.zeros(2, 3, 4), "x"), (torch.zeros(3), "x"), (torch.zeros(3, 5), "y")):
        with pytest.raises(ArgumentError, match="SlicedWassersteinDistance") as caught:
            metric.update(x, torch.zeros(3, 4))
        assert caught.value.argument == argument
    with pytest.warns(UserWarning, match="before the ``update``"), pytest.raises(ArgumentError, match="call update"):
        SlicedWassersteinDistance().compute()
    with pytest.raises(UnknownNameError):
        SlicedWassersteinDistance(control_variate="middle")
