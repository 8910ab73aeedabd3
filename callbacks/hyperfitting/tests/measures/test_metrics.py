"""The metrics behave like torchmetrics' own: states, processes, pickling, plots, device, documentation."""

from __future__ import annotations

import doctest
import pickle
import socket
from importlib import import_module

import pytest
import torch
from torch import distributed, multiprocessing

from thunderstone_hyperfitting.measures import (
    DistinctN,
    PredictionEntropy,
    RepetitionN,
    SelfBLEU,
    Top1Probability,
    TrainingOverlap,
    TypeTokenRatio,
)

TRAINING = [[1, 2, 3, 4, 5, 6]]
METRICS = {
    "TypeTokenRatio": lambda: TypeTokenRatio(end_token=0),
    "RepetitionN": lambda: RepetitionN(n=2, end_token=0),
    "DistinctN": lambda: DistinctN(n=2, end_token=0),
    "SelfBLEU": lambda: SelfBLEU(n=3, end_token=0),
    "TrainingOverlap": lambda: TrainingOverlap(TRAINING, end_token=0),
    "PredictionEntropy": PredictionEntropy,
    "Top1Probability": Top1Probability,
}


def batch(name, rows, seed=0):
    """Texts of different lengths that end in 0, or logits."""
    generator = torch.Generator().manual_seed(seed)
    if name in ("PredictionEntropy", "Top1Probability"):
        return torch.randn(9, 5, generator=generator)[rows]
    tokens = torch.randint(1, 7, (9, 14), generator=generator)
    for row in range(9):
        tokens[row, 5 + row :] = 0
    return tokens[rows]


@pytest.fixture(params=METRICS)
def name(request):
    return request.param


def test_forward_gives_the_batch_and_keeps_the_whole(name):
    metric, whole, part = (METRICS[name]() for _ in range(3))
    whole.update(batch(name, slice(0, 9)))
    part.update(batch(name, slice(0, 4)))
    torch.testing.assert_close(metric(batch(name, slice(0, 4))), part.compute())
    metric(batch(name, slice(4, 9)))
    torch.testing.assert_close(metric.compute(), whole.compute())


def test_it_survives_pickling_and_cloning(name):
    metric = METRICS[name]()
    metric.update(batch(name, slice(0, 9)))
    assert torch.equal(pickle.loads(pickle.dumps(metric)).compute(), metric.compute())
    assert torch.equal(metric.clone().compute(), metric.compute())


def test_it_plots_and_says_which_way_is_better(name):
    from matplotlib import pyplot

    metric = METRICS[name]()
    values = [metric(batch(name, slice(0, 5), seed)) for seed in range(3)]
    try:
        metric.plot()
        _, axis = metric.plot(values)
        assert axis.get_lines()[0].get_xdata().shape == (3,)
    finally:
        pyplot.close("all")
    assert metric.higher_is_better is {"TypeTokenRatio": True, "DistinctN": True}.get(
        name, None if name in ("PredictionEntropy", "Top1Probability") else False
    )
    assert metric.full_state_update is False
    assert metric.is_differentiable is False


def _rank(rank, port, results):
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for name, make in METRICS.items():
        metric = make()
        # Different numbers of texts on each rank.
        metric.update(batch(name, slice(0, 3) if rank == 0 else slice(3, 9)))
        results[rank, name] = metric.compute().item()
    distributed.destroy_process_group()


@pytest.mark.ddp
def test_processes_measure_all_texts_together():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.start_processes(_rank, args=(port, results), nprocs=2, start_method="fork")
        values = dict(results)
    for name, make in METRICS.items():
        whole = make()
        whole.update(batch(name, slice(0, 9)))
        assert values[0, name] == values[1, name] == pytest.approx(whole.compute().item(), rel=1e-6)


@pytest.mark.gpu
def test_it_runs_where_its_input_is(name):
    metric, there = METRICS[name](), METRICS[name]().cuda()
    metric.update(batch(name, slice(0, 9)))
    there.update(batch(name, slice(0, 9)).cuda())
    assert there.compute().is_cuda
    torch.testing.assert_close(there.compute().cpu(), metric.compute())


@pytest.mark.parametrize(
    "module",
    [
        "measures.bleu",
        "measures.overlap",
        "measures.prediction_metrics",
        "measures.predictions",
        "measures.ratios",
        "measures.temperature",
        "measures.text_metrics",
        "citation_blocker",
    ],
)
def test_examples_in_docstrings_are_true(module):
    result = doctest.testmod(import_module(f"thunderstone_hyperfitting.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
