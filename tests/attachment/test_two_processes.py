"""Data parallelism and sharding with two processes over gloo, against one process with the joint batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from masked_processes import masks_of
from masking import Given, assert_sparse
from sharded_modules import DIRECTIONS, ETA, batches, network
from ticketing import Tickets
from tiny_training import Classifier, assert_same_bits, fit, loader, perceptron, sgd, state
from torch import Tensor, nn
from two_processes import BATCHES, RHO, SIZE, shard

pytestmark = [pytest.mark.ddp, pytest.mark.slow]

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="session")
def ranks(replicas: Callable[[Path], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What each of the two processes returned."""
    return replicas(SCRIPT)


# -- by hand, in float64 -----------------------------------------------------------------------------------------------

Ascent = Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]


def l2(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
    return [RHO * g / norm for g in gradients]


def adaptive(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    units = [w.abs() + ETA if w.dim() > 1 else torch.ones_like(w) for w in weights]  # biases are vectors here
    norm = sum(float((t * g).square().sum()) for t, g in zip(units, gradients, strict=True)) ** 0.5
    return [RHO * t**2 * g / norm for t, g in zip(units, gradients, strict=True)]


def by_hand(
    ascent: Ascent | None, *, local: bool = False, accumulated: int = 1, clip: float = 0.0
) -> dict[str, Tensor]:
    """Two replicas in one process: each looks elsewhere by itself, or both in the direction of the average."""
    module = Classifier(perceptron().double())
    parameters = list(module.parameters())
    optimizer = sgd(parameters)
    data = [list(shard(rank)) for rank in range(2)]

    def gradients(rank: int, window: range) -> list[Tensor]:
        loss = sum(module.loss(data[rank][number]) / accumulated for number in window)
        return list(torch.autograd.grad(loss, parameters))

    def elsewhere(rank: int, window: range, shift: list[Tensor]) -> list[Tensor]:
        saved = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for parameter, delta in zip(parameters, shift, strict=True):
                parameter.add_(delta)
        result = gradients(rank, window)
        with torch.no_grad():
            for parameter, value in zip(parameters, saved, strict=True):
                parameter.copy_(value)
        return result

    for first in range(0, BATCHES, accumulated):
        window = range(first, min(first + accumulated, BATCHES))
        each = [gradients(rank, window) for rank in range(2)]
        if ascent is not None:
            weights = [parameter.detach() for parameter in parameters]
            joint = [(one + other) / 2 for one, other in zip(*each, strict=True)]
            shifts = [ascent(weights, own if local else joint) for own in each]
            each = [elsewhere(rank, window, shifts[rank]) for rank in range(2)]
        final = [(one + other) / 2 for one, other in zip(*each, strict=True)]
        for parameter, gradient in zip(parameters, final, strict=True):
            parameter.grad = gradient
        if clip:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
    return state(module)


def assert_near(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value.double(), other[name].double(), rtol=0, atol=tolerance)


CASES: dict[str, tuple[dict[str, Any], float]] = {
    "plain": ({"ascent": None}, 1e-12),
    "sync": ({"ascent": l2}, 1e-12),
    "sync asam": ({"ascent": adaptive}, 1e-12),
    "sync accumulated": ({"ascent": l2, "accumulated": 2}, 1e-12),
    "sync bucket view": ({"ascent": l2}, 1e-12),
    "sync static graph": ({"ascent": l2}, 1e-12),
    "clipped": ({"ascent": l2, "clip": 0.05}, 1e-6),
    "local": ({"ascent": l2, "local": True}, 1e-12),
    "local asam": ({"ascent": adaptive, "local": True}, 1e-12),
    "local accumulated": ({"ascent": l2, "local": True, "accumulated": 2}, 1e-12),
    "local bucket view": ({"ascent": l2, "local": True, "accumulated": 2}, 1e-12),
    "local, single precision": ({"ascent": l2, "local": True}, 1e-5),
}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_do_what_the_equations_say(ranks: list[dict[str, Any]], name: str) -> None:
    arguments, tolerance = CASES[name]
    assert_near(ranks[0][name], by_hand(**arguments), tolerance)


@pytest.mark.parametrize("name", CASES)
def test_replicas_end_equal_to_the_last_bit(ranks: list[dict[str, Any]], name: str) -> None:
    assert_same_bits(ranks[0][name], ranks[1][name])


def test_the_references_are_about_something() -> None:
    """A synchronised step, a local one and a plain one end in different places."""
    ends = [by_hand(l2), by_hand(l2, local=True), by_hand(None), by_hand(adaptive), by_hand(l2, accumulated=2)]
    flat = [torch.cat([value.flatten() for value in end.values()]) for end in ends]
    for number, one in enumerate(flat):
        assert all(float((one - other).abs().max()) > 1e-3 for other in flat[:number])


def test_a_second_pass_is_invisible_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    """The processes themselves have compared a plain run with one whose batches were gone through twice."""
    for result in ranks:
        looked = result["looking twice"]
        assert looked["updates"] == 3
        plain, watched = looked["logged"]
        assert plain.keys() == watched.keys() == {"loss", "loss_step", "loss_epoch"}
        assert all(torch.equal(plain[key], watched[key]) for key in plain)
        assert looked["state"]["net.1.num_batches_tracked"] == BATCHES
    assert torch.equal(
        ranks[0]["looking twice"]["logged"][1]["loss_epoch"], ranks[1]["looking twice"]["logged"][1]["loss_epoch"]
    )


def test_a_second_local_pass_is_invisible_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    """Rank 0 hands out its buffers at the same moments as in a plain run; the statistics of rank 1 show it."""
    for result in ranks:
        assert_same_bits(result["looking twice locally"]["plain"], result["looking twice locally"]["watched"])
    statistics = [result["looking twice locally"]["plain"]["net.2.running_mean"] for result in ranks]
    assert not torch.equal(*statistics)


def test_local_gradients_that_are_left_are_averaged(ranks: list[dict[str, Any]]) -> None:
    first, second = (result["local gradients"] for result in ranks)
    assert not torch.equal(first["first"][0], second["first"][0])
    assert_same_bits(first["left"], second["left"])
    assert_near(first["left"], first["plain"], 1e-12)


def test_an_overflow_on_one_rank_skips_the_step_on_both(ranks: list[dict[str, Any]]) -> None:
    first, second = (result["half precision"] for result in ranks)
    assert first["scale"] == second["scale"] == 2.0**9
    assert_same_bits(first["state"], second["state"])
    assert all(bool(value.isfinite().all()) for value in first["state"].values())


def test_parameters_that_one_rank_or_nobody_uses(ranks: list[dict[str, Any]]) -> None:
    first, second = (result["unused"] for result in ranks)
    for name in first:
        assert_same_bits(first[name], second[name])
        for part in ("nobody.weight", "nobody.bias"):
            assert torch.equal(first[name][part], first["plain"][part])
    assert_near(first["plain"], first["again"], 1e-12)
    for name in ("sync", "local"):
        moved = (first[name]["only_rank_one.weight"] - first["plain"]["only_rank_one.weight"]).abs().max()
        assert float(moved) > 1e-4


@pytest.mark.parametrize(
    ("scenario", "why"), [("local static graph", "static_graph=True"), ("model parallel", "sharding")]
)
def test_gradients_that_no_replica_can_see_are_refused(ranks: list[dict[str, Any]], scenario: str, why: str) -> None:
    for result in ranks:
        message = result[scenario] if isinstance(result[scenario], str) else result[scenario]["refused"]
        assert message.startswith("SAM cannot run with strategy=")
        assert why in message
        assert "sync=True" in message


# -- sharded parameters ------------------------------------------------------------------------------------------------


def test_sharded_training_equals_the_same_on_whole_parameters(ranks: list[dict[str, Any]]) -> None:
    """Through Lightning's ModelParallelStrategy, in single precision."""
    result = ranks[0]["model parallel"]
    assert_near(result["plain"], by_hand(None), 1e-5)
    assert_same_bits(result["plain"], result["again"])
    assert_near(result["sam"], by_hand(l2), 1e-5)
    assert_near(result["sam accumulated"], by_hand(l2, accumulated=2), 1e-5)
    for name in ("plain", "sam", "sam accumulated"):
        assert_same_bits(result[name], ranks[1]["model parallel"][name])


def _whole(direction: str) -> dict[str, Any]:
    """What `sharded_modules.look` does, on whole parameters in one process with the joint batch."""
    module = network()
    parameters = list(module.parameters())

    def gradients() -> list[Tensor]:
        losses = [nn.functional.cross_entropy(module(x), y) for x, y in batches()]
        return list(torch.autograd.grad(sum(losses) / 2, parameters))

    first = gradients()
    shift = {"l2": l2, "adaptive_l2": adaptive, "linf": lambda _, g: [RHO * t.sign() for t in g]}[direction]
    delta = shift([parameter.detach() for parameter in parameters], first)
    with torch.no_grad():
        for parameter, step in zip(parameters, delta, strict=True):
            parameter.add_(step)
    there = [parameter.detach().clone() for parameter in parameters]
    norm = torch.cat([gradient.flatten() for gradient in first]).norm()
    return {"norm": norm, "first": first, "there": there, "second": gradients()}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["fully sharded", "replicated shards", "FSDP1"])
def test_a_step_on_sharded_parameters(ranks: list[dict[str, Any]], kind: str, direction: str) -> None:
    expected = _whole(direction)
    for result in ranks:
        looked = result[kind][direction]
        assert looked["back"]
        assert looked["same gradients"]
        assert float(looked["empty"]) == 0
        torch.testing.assert_close(looked["norm"], expected["norm"], rtol=1e-5, atol=0)
        for part in ("first", "there", "second"):
            for got, whole in zip(looked[part], expected[part], strict=True):
                torch.testing.assert_close(got.view_as(whole), whole, rtol=1e-4, atol=1e-5)
    assert float((expected["second"][0] - expected["first"][0]).abs().max()) > 1e-3


# -- masks -------------------------------------------------------------------------------------------------------------


def test_rank_zeros_masks_reach_every_rank(ranks: list[dict[str, Any]]) -> None:
    results = [rank["masks that differ"] for rank in ranks]
    assert_same_bits(results[0]["state"], results[1]["state"])
    for result in results:
        assert result["masks"].keys() == masks_of(0).keys()
        assert all(torch.equal(mask, masks_of(0)[name]) for name, mask in result["masks"].items())
    module = Classifier(None, sgd)
    module.load_state_dict(results[1]["state"])
    assert_sparse(module, masks_of(0))
    whole = Classifier(None, sgd)
    joint = loader(2 * BATCHES * SIZE, 2 * SIZE, dtype=torch.float64)
    fit(whole, Given(masks_of(0)), data=joint, precision="64-true")
    assert_near(results[0]["state"], state(whole), 1e-12)


def test_masks_that_change_stay_the_same_on_all_ranks(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["masks that change"] for rank in ranks)
    assert_same_bits(first["state"], second["state"])
    assert all(torch.equal(mask, second["masks"][name]) for name, mask in first["masks"].items())


def test_masks_that_do_not_fit_are_refused_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    assert ["net.7.weight" in rank["masks refused"] for rank in ranks] == [True, True]


def test_rounds_of_two_processes(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["tickets"] for rank in ranks)
    assert len(first["ends"]) == len(second["ends"]) == 3
    for one, other in zip(first["ends"], second["ends"], strict=True):
        assert_same_bits(one, other)
    assert all(torch.equal(mask, second["masks"][name]) for name, mask in first["masks"].items())
    # Where checkpoints are written, the states of both are there.
    assert (first["ranks"], second["ranks"]) == (2, 1)
    assert first["step"] == BATCHES
    joint, method = Classifier(None, sgd), Tickets(2)
    fit(joint, method, data=loader(2 * BATCHES * SIZE, 2 * SIZE, dtype=torch.float64), precision="64-true")
    for one, other in zip(first["ends"], method._ends, strict=True):
        assert_near(one, other, 1e-12)
