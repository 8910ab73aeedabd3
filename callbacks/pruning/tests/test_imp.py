"""Lottery tickets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from thunderstone import ArgumentError
from thunderstone_pruning import IMP, FixedMask, load_ticket

EPOCH = 3


class Ends(Callback):
    """Notes the weights each round ends with, and the masks it was trained under."""

    def __init__(self, method: IMP, found: list[Any]) -> None:
        self.method, self.found = method, found

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        weights = {name: parameter.detach().clone() for name, parameter in pl_module.named_parameters()}
        self.found.append((weights, dict(self.method.masks)))


@pytest.mark.parametrize("rewind_step", [0, 2])
def test_rounds_are_those_written_by_hand(
    classifier, fit, by_hand, keep_by_sorting, dataset, tmp_path, rewind_step
) -> None:
    """Frankle & Carbin 2019: train, prune a fifth of what is left, put the rest back to step k, train again."""
    module = classifier(dtype=torch.float64)
    method = IMP(rounds=3, rewind_step=rewind_step, tickets=str(tmp_path))
    reference = by_hand(module)
    rounds: list[Any] = []
    fit(module, method, Ends(method, rounds), data=dataset(torch.float64))
    assert len(rounds) == 4
    mark = dict(reference.weights)
    for number, (weights, masks) in enumerate(rounds):
        if number:
            left = sum(int(mask.sum()) for mask in reference.masks.values())
            scores = {name: reference.weights[name].abs() - (1 - reference.masks[name]) for name in reference.names}
            reference.masks = keep_by_sorting(scores, left - round(0.2 * left))
            reference.weights = dict(mark)
            reference.slots = {name: torch.zeros_like(slot) for name, slot in reference.slots.items()}
            reference.updates = rewind_step
            reference.mask()
            ticket = load_ticket(tmp_path / f"round-{number}.ckpt")
            assert ticket.weights is not None
            torch.testing.assert_close(dict(ticket.weights), mark, rtol=1e-9, atol=1e-10)
            assert ticket.metadata["round"] == number
            assert all(ticket.masks[name].equal(masks[name]) for name in masks)
        while reference.updates < 2 * EPOCH:
            reference.update()
            if number == 0 and reference.updates == rewind_step:
                mark = dict(reference.weights)
        torch.testing.assert_close(weights, reference.weights, rtol=1e-9, atol=1e-10)
        assert all(masks[name].double().equal(reference.masks[name]) for name in masks)
    # 42, 34, 27, 22 weights.
    assert method.masks.kept == 22


def test_a_ticket_trained_by_itself_ends_with_the_same_bits(classifier, fit, dataset, tmp_path) -> None:
    """With dropout, running statistics and shuffling, from the seed that the first round began with."""

    def run(method: Any) -> dict[str, torch.Tensor]:
        module = classifier(noisy=True)
        torch.manual_seed(7)
        fit(module, method, data=DataLoader(dataset(), batch_size=8, shuffle=True))
        return module.state_dict()

    found = run(IMP(rounds=2, tickets=str(tmp_path)))
    expected = run(FixedMask(str(tmp_path / "round-2.ckpt")))
    assert all(found[name].equal(expected[name]) for name in expected)


def test_layers_with_fractions_of_their_own(classifier, fit) -> None:
    method = IMP(rounds=2, scope="layer", layer_fractions={"net.2": 0.1}, tickets=None)
    fit(classifier(), method)
    # 24 -> 19 -> 15 and 18 -> 16 -> 14.
    assert [int(mask.sum()) for mask in method.masks.values()] == [15, 14]


def test_scores_with_gradients_and_scores_that_draw(classifier, fit) -> None:
    kept = {}
    for score in ("magnitude", "snip", "random"):
        method = IMP(rounds=1, fraction=0.5, score=score, tickets=None)
        fit(classifier(), method)
        assert method.masks.kept == 21
        kept[score] = torch.cat([mask.flatten() for mask in method.masks.values()])
    assert not kept["magnitude"].equal(kept["snip"])
    assert not kept["magnitude"].equal(kept["random"])


def test_no_rounds_is_the_plain_run(classifier, fit, tmp_path) -> None:
    plain = fit(classifier())
    found = fit(classifier(), IMP(rounds=0), default_root_dir=tmp_path)
    assert all(one.equal(other) for one, other in zip(found.parameters(), plain.parameters(), strict=True))
    assert not (tmp_path / "tickets").exists()


def test_tickets_lie_below_the_runs_folder(classifier, fit, tmp_path) -> None:
    fit(classifier(), IMP(rounds=2), default_root_dir=tmp_path)
    assert sorted(path.name for path in (tmp_path / "tickets").iterdir()) == ["round-1.ckpt", "round-2.ckpt"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"rewind_step": 7}, "rewind_step=7 is not allowed: it is update 7, and the training has 6"),
        ({"include": "nothing"}, "include='nothing'"),
        ({"exclude": "*"}, "exclude=.*everything"),
        ({"scope": "layer", "layer_fractions": {"head": 0.1}}, "layer_fractions='head' is not allowed"),
    ],
)
def test_what_cannot_be_is_said_before_the_first_round(classifier, fit, bad, message) -> None:
    module = classifier()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    with pytest.raises(ArgumentError, match=f"IMP: {message}"):
        fit(module, IMP(tickets=None, **bad))
    assert all(one.equal(other) for one, other in zip(module.parameters(), before, strict=True))


def test_a_layer_that_would_be_empty(classifier, fit) -> None:
    with pytest.raises(ArgumentError, match=r"IMP: layer='net\.\d\.weight' is not allowed"):
        fit(classifier(), IMP(rounds=1, fraction=0.97, tickets=None))
    method = IMP(rounds=3, fraction=0.8, scope="layer", empty="keep_one", tickets=None)
    fit(classifier(), method)
    assert [int(mask.sum()) for mask in method.masks.values()] == [1, 1]


@pytest.mark.parametrize(
    "bad",
    [
        {"rounds": -1},
        {"fraction": 0},
        {"fraction": 1},
        {"rewind_step": "late"},
        {"scope": "all"},
        {"layer_fractions": {"net": 0.1}},
        {"layer_fractions": 0.1},
        {"score": "size"},
        {"tickets": ""},
        {"seed": -1},
    ],
    ids=str,
)
def test_bad_arguments(bad) -> None:
    (name,) = bad
    with pytest.raises(ArgumentError, match=f"IMP: {name}="):
        IMP(**bad)
    with pytest.raises(ArgumentError, match=r"IMP: layer_fractions\['net'\]=2"):
        IMP(scope="layer", layer_fractions={"net": 2})
