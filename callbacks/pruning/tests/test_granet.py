"""Gradual pruning with regeneration."""

from __future__ import annotations

import math

import pytest
import torch

from thunderstone import ArgumentError, UnsupportedSettingError
from thunderstone_pruning import GradualPruning, GraNet

TOTAL = 12


@pytest.mark.parametrize("initial", [1.0, 0.6])
def test_masks_and_training_are_those_written_by_hand(
    classifier, fit, by_hand, keep_by_sorting, same, dataset, initial
) -> None:
    """Liu et al. 2021, algorithm 1: prune along the cubic schedule, drop, grow; on after pruning has ended."""
    module = classifier(dtype=torch.float64)
    reference = by_hand(module)
    method = GraNet(0.3, initial, stop=6, interval=2, regrowth=0.5, empty="keep_one")
    starts = {}

    def begin(trainer, pl_module) -> None:
        GraNet.on_train_start(method, trainer, pl_module)
        starts.update({name: mask.double() for name, mask in method.masks.items()})

    method.on_train_start = begin
    fit(module, method, data=dataset(torch.float64), max_epochs=4)
    assert sum(int(mask.sum()) for mask in starts.values()) == round(initial * 42)
    reference.masks = starts
    reference.mask()
    moved = 0
    for update in range(1, TOTAL + 1):
        gradients = reference.update()
        if update % 2 or update == TOTAL:
            continue
        time = min(1.0, update / 6)
        density = 0.3 + (initial - 0.3) * (1 - time) ** 3
        scores = {name: reference.weights[name].abs() - (1 - reference.masks[name]) for name in reference.names}
        reference.masks = keep_by_sorting(scores, round(density * 42))
        reference.mask()
        fraction = 0.25 * (1 + math.cos(math.pi * update / TOTAL))
        for name in reference.names:
            kept = int(reference.masks[name].sum())
            number = min(int(fraction * kept), kept - 1)
            here = {name: reference.weights[name].abs() - (1 - reference.masks[name])}
            fewer = keep_by_sorting(here, kept - number)[name]
            # Through zero, in weights and momentum, for what goes and comes back.
            reference.masks[name] = fewer
            reference.mask()
            candidates = {name: gradients[name].abs() - 1e9 * fewer}
            reference.masks[name] = fewer + keep_by_sorting(candidates, number)[name]
            moved += number
    assert moved > 10
    found = {name: mask.double() for name, mask in method.masks.items()}
    assert all(found[name].equal(reference.masks[name]) for name in found)
    torch.testing.assert_close(
        {name: parameter.detach() for name, parameter in module.named_parameters()},
        reference.weights,
        rtol=1e-9,
        atol=1e-10,
    )
    assert method.masks.kept == round(0.3 * 42)


def test_without_regrowth_it_is_gradual_pruning(classifier, fit) -> None:
    one = fit(classifier(), GraNet(0.3, stop=4, interval=2, regrowth=0.0))
    two = fit(classifier(), GradualPruning(0.3, stop=4, interval=2))
    assert all(a.equal(b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_it_begins_at_the_densities_of_erk(classifier, fit) -> None:
    method = GraNet(0.3, initial_density=0.5, start=5, stop=6)
    fit(classifier(), method, max_steps=6, max_epochs=-1, limit_train_batches=1)
    # 4x6 and 6x3 share 21 weights as 10 : 9.
    assert method.masks.kept == round(0.3 * 42)


def test_an_endless_training_is_refused(classifier, fit) -> None:
    with pytest.raises(UnsupportedSettingError, match="GraNet cannot run with a training of unknown length"):
        fit(classifier(), GraNet(0.3), max_epochs=-1)


@pytest.mark.parametrize(
    "bad",
    [
        {"density": 0},
        {"initial_density": 0.05},
        {"distribution": "rek"},
        {"start": "then"},
        {"stop": 1.5},
        {"interval": 0},
        {"regrowth": 1.0},
        {"seed": -1},
    ],
    ids=str,
)
def test_bad_arguments(bad) -> None:
    (name,) = bad
    with pytest.raises(ArgumentError, match=f"GraNet: {name}="):
        GraNet(**bad)
