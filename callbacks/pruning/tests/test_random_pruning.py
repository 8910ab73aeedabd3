"""Random pruning at initialisation."""

from __future__ import annotations

import pytest
import torch

from thunderstone import ArgumentError
from thunderstone_pruning import RandomPruning, sparsity_report
from thunderstone_pruning.densities import erk
from thunderstone_pruning.mask_files import Ticket

WEIGHTS = 6 * 4 + 3 * 6


def test_training_is_that_of_a_network_masked_by_hand(classifier, fit, by_hand, same, dataset) -> None:
    module = classifier(dtype=torch.float64)
    reference = by_hand(module)
    method = RandomPruning(0.5)
    fit(module, method, data=dataset(torch.float64))
    reference.masks = {name: mask.double() for name, mask in method.masks.items()}
    reference.mask()
    for _ in range(6):
        reference.update()
    same(module, reference.weights)


@pytest.mark.parametrize(("distribution", "counts"), [("uniform", [12, 9]), ("erk", None)])
def test_counts_are_exact(classifier, fit, distribution, counts) -> None:
    method = RandomPruning(0.5, distribution)
    fit(classifier(), method, max_steps=1, max_epochs=-1)
    kept = [int(mask.sum()) for mask in method.masks.values()]
    assert sum(kept) == round(0.5 * WEIGHTS)
    if counts is None:
        shares = erk({"a": (6, 4), "b": (3, 6)}, 0.5)
        assert kept == pytest.approx([shares["a"] * 24, shares["b"] * 18], abs=1)
    else:
        assert kept == counts


def test_the_seed_decides_and_nothing_else_is_drawn(classifier, fit) -> None:
    masks = []
    for seed, other in ((1, 5), (1, 6), (2, 5)):
        module = classifier()
        torch.manual_seed(other)
        before = torch.get_rng_state()
        method = RandomPruning(0.3, seed=seed)
        method_free = torch.get_rng_state()
        fit(module, method, max_steps=1, max_epochs=-1)
        assert method_free.equal(before)
        masks.append(torch.cat([mask.flatten() for mask in method.masks.values()]))
    assert masks[0].equal(masks[1])
    assert not masks[0].equal(masks[2])


def test_as_many_as_in_a_file(classifier, fit, tmp_path) -> None:
    given = {"net.0.weight": torch.zeros(6, 4).bool(), "net.2.weight": torch.ones(3, 6).bool()}
    given["net.0.weight"][0, :3] = True
    method = RandomPruning(like=str(Ticket(given).save(tmp_path / "masks.ckpt")))
    fit(classifier(), method, max_steps=1, max_epochs=-1)
    assert [int(mask.sum()) for mask in method.masks.values()] == [3, 18]
    assert not method.masks["net.0.weight"].equal(given["net.0.weight"])


def test_a_checkpoint_says_how_sparse_it_is(classifier, fit, tmp_path) -> None:
    method = RandomPruning(density=0.25)
    module = fit(classifier(), method, default_root_dir=tmp_path, enable_checkpointing=True)
    (path,) = tmp_path.rglob("*.ckpt")
    sparsity = torch.load(path, weights_only=True)["sparsity"]
    assert sparsity == sparsity_report(module, masks=method.masks).summary()
    assert (sparsity["remaining"], sparsity["weights"], sparsity["density"]) == (10, 42, 10 / 42)


def test_a_second_fit_keeps_the_masks_and_another_module_gets_its_own(classifier, fit) -> None:
    method, module = RandomPruning(0.5), classifier()
    fit(module, method)
    first = dict(method.masks)
    fit(module, method)
    assert all(method.masks[name].equal(first[name]) for name in first)
    other = classifier()
    fit(other, method)
    assert method.masks.kept == 21
    assert sum(int((parameter == 0).sum()) for parameter in other.parameters()) == 21


def test_what_is_left_out_stays_dense(classifier, fit) -> None:
    method = RandomPruning(0.25, exclude="net.2")
    module = fit(classifier(), method)
    assert list(method.masks) == ["net.0.weight"]
    assert int(module.net[0].weight.count_nonzero()) == 6
    assert int(module.net[2].weight.count_nonzero()) == 18


def test_a_layer_without_weights(classifier, fit) -> None:
    with pytest.raises(ArgumentError, match=r"RandomPruning: layer='net.2.weight' is not allowed"):
        fit(classifier(), RandomPruning(0.025))
    method = RandomPruning(0.05, empty="keep_one")
    fit(classifier(), method)
    assert [int(mask.sum()) for mask in method.masks.values()] == [1, 1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"density": 0}, "density=0"),
        ({"density": 1.1}, "density=1.1 is not allowed: it must be above 0 and at most 1"),
        ({"distribution": "erc"}, "Did you mean 'erk'"),
        ({"density": 0.5, "like": "x.ckpt"}, "density=0.5 is not allowed: like= says"),
        ({"like": 3}, "like=3"),
        ({"seed": -1}, "seed=-1"),
        ({"include": 3}, "include=3"),
        ({"empty": "no"}, "empty='no'"),
    ],
)
def test_bad_arguments(bad, message) -> None:
    with pytest.raises(ArgumentError, match=f"RandomPruning: .*{message}|{message}"):
        RandomPruning(**bad)
