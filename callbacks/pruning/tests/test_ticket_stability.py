"""Two trainings of every ticket, and the line between them."""

from __future__ import annotations

import math

import pytest
import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader

from thunderstone import ArgumentError
from thunderstone_pruning import IMP, FixedMask, load_ticket, ticket_stability


@pytest.fixture
def tickets(classifier, fit, tmp_path) -> list[str]:
    fit(classifier(noisy=True), IMP(rounds=2, fraction=0.4, rewind_step=2, tickets=str(tmp_path)))
    return [str(tmp_path / f"round-{number}.ckpt") for number in (2, 1)]


@pytest.fixture
def train(classifier, fit, dataset):
    def run(method: FixedMask, seed: int):
        module = classifier(noisy=True)
        torch.manual_seed(seed)
        return fit(module, method, data=DataLoader(dataset(), batch_size=8, shuffle=True))

    return run


def test_levels_are_those_of_trainings_by_hand(tickets, train, dataset) -> None:
    x, y = dataset().tensors

    def error(module) -> float:
        return float((module(x).argmax(dim=1) != y).float().mean())

    report = ticket_stability(tickets, train, error, points=5, batches=DataLoader(dataset(), batch_size=8))
    assert [level.density for level in report.levels] == pytest.approx([1, 25 / 42, 15 / 42])
    assert (report.levels[0].distance, report.levels[0].angle) == (0, 0)
    names = ["net.0.weight", "net.4.weight"]
    ends = [train(FixedMask(tickets[1]), seed) for seed in (1, 2)]
    one, two = (torch.cat([module.get_parameter(name).detach().flatten() for name in names]) for module in ends)
    level = report.levels[1]
    assert level.apart == pytest.approx(math.dist(one.tolist(), two.tolist()), rel=1e-5)
    assert level.apart > 0
    assert (level.line.errors[-1], level.line.errors[0]) == tuple(error(module.eval()) for module in ends)
    assert len(level.line.errors) == 5
    assert report.levels[2].distance > 0
    assert 0 < report.levels[2].angle < 180


def test_the_whole_network_begins_where_tickets_do(tickets, train) -> None:
    begun = []

    def notes(method: FixedMask, seed: int):
        begun.append((load_ticket(method.path), seed))
        return train(method, seed)

    ticket_stability(tickets[1:], notes, lambda module: 0.0, points=2, seeds=(5, 6))
    assert [seed for _, seed in begun] == [5, 6, 5, 6]
    dense, sparse = begun[0][0], begun[2][0]
    assert all(mask.all() for mask in dense.masks.values())
    assert not all(mask.all() for mask in sparse.masks.values())
    assert all(weight.equal(sparse.weights[name]) for name, weight in dense.weights.items())


def test_without_noise_there_is_no_barrier(tickets, train) -> None:
    report = ticket_stability(tickets, lambda method, seed: train(method, 3), _weight_norm, points=3)
    assert [level.apart for level in report.levels] == [0, 0, 0]
    assert [level.line.instability for level in report.levels] == pytest.approx([0, 0, 0], abs=1e-6)
    table = report.table()
    assert table.columns[:2] == ["remaining", "instability"]
    assert len(table.rows) == 3
    assert isinstance(report.figure(), Figure)


def _weight_norm(module) -> float:
    return float(sum(parameter.detach().norm() for parameter in module.parameters()))


@pytest.mark.parametrize("why", ["none", "missing", "no weights", "another run"])
def test_tickets_that_do_not_belong_together(classifier, fit, tickets, tmp_path, train, why) -> None:
    given, message = list(tickets), ""
    if why == "none":
        given, message = [], r"tickets=\[\] is not allowed: there is none"
    elif why == "missing":
        given, message = [str(tmp_path / "none.ckpt")], "there is no such file"
    elif why == "no weights":
        load_ticket(tickets[0]).__class__(load_ticket(tickets[0]).masks).save(tmp_path / "masks.ckpt")
        given, message = [*given, str(tmp_path / "masks.ckpt")], "it holds no weights to begin from"
    else:
        fit(classifier(noisy=True), IMP(rounds=1, rewind_step=3, tickets=str(tmp_path / "other")))
        given, message = [*given, str(tmp_path / "other" / "round-1.ckpt")], "it begins from other weights"
    with pytest.raises(ArgumentError, match=f"ticket_stability: .*{message}"):
        ticket_stability(given, train, lambda module: 0.0)
