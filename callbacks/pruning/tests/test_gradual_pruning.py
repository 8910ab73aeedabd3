"""Gradual magnitude pruning."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback

from thunderstone import ArgumentError
from thunderstone_pruning import GradualPruning


class Counts(Callback):
    """How many weights are not zero after every update, and how many the masks keep."""

    def __init__(self, method) -> None:
        self.method, self.seen, self.kept = method, [], []

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        self.seen.append(sum(int(layer.weight.count_nonzero()) for layer in (pl_module.net[0], pl_module.net[2])))
        self.kept.append(self.method.masks.kept if self.method.masks else 42)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_masks_and_training_are_those_written_by_hand(
    classifier, fit, by_hand, keep_by_sorting, same, dataset, scope
) -> None:
    """Zhu & Gupta, eq. 1, in sparsities: every second update from the second to the eighth of twelve."""
    module = classifier(dtype=torch.float64)
    reference = by_hand(module)
    method = GradualPruning(0.25, start=2, stop=8, interval=2, scope=scope)
    fit(module, method, data=dataset(torch.float64), max_epochs=4)
    for update in range(1, 13):
        reference.update()
        if update in (4, 6, 8):
            sparsity = 0.75 + (0.0 - 0.75) * (1 - (update - 2) / 6) ** 3
            scores = {name: reference.weights[name].abs() - (1 - reference.masks[name]) for name in reference.names}
            if scope == "global":
                reference.masks = keep_by_sorting(scores, round((1 - sparsity) * 42))
            else:
                exact = {"net.0.weight": (1 - sparsity) * 24, "net.2.weight": (1 - sparsity) * 18}
                keep = {name: int(value) for name, value in exact.items()}
                missing = round(sum(exact.values())) - sum(keep.values())
                for name in sorted(exact, key=lambda name: (keep[name] - exact[name], name))[:missing]:
                    keep[name] += 1
                reference.masks = {
                    name: keep_by_sorting({name: scores[name]}, keep[name])[name] for name in reference.names
                }
            reference.mask()
    same(module, reference.weights)
    assert method.masks.kept == round(0.25 * 42)


def test_density_falls_along_the_schedule_and_never_rises(classifier, fit) -> None:
    method = GradualPruning(0.5, initial_density=0.9, stop=1.0, interval=1, schedule="linear")
    counts = Counts(method)
    fit(classifier(), method, counts, max_epochs=2)
    assert counts.seen == counts.kept == [round((0.9 - 0.4 * update / 6) * 42) for update in range(1, 7)]


def test_one_shot_prunes_at_its_start(classifier, fit) -> None:
    method = GradualPruning(0.5, schedule="one_shot", start="1 epoch", stop="1 epoch")
    counts = Counts(method)
    fit(classifier(), method, counts)
    assert counts.seen == [42, 42, 21, 21, 21, 21]


def test_the_end_is_met_where_the_interval_does_not_fall_on_it(classifier, fit) -> None:
    method = GradualPruning(0.5, stop=6, interval=4)
    counts = Counts(method)
    fit(classifier(), method, counts)
    assert counts.kept == [42, 42, 42, 22, 22, 21]


def test_gradient_scores(classifier, fit) -> None:
    method = GradualPruning(0.5, score="snip", stop=4, interval=2)
    module = fit(classifier(), method)
    assert method.masks.kept == sum(int(layer.weight.count_nonzero()) for layer in (module.net[0], module.net[2])) == 21


def test_accumulated_batches_are_one_update(classifier, fit) -> None:
    method = GradualPruning(0.5, stop=2, interval=1)
    counts = Counts(method)
    fit(classifier(), method, counts, accumulate_grad_batches=3)
    assert counts.kept == [42, 42, round((0.5 + 0.5 / 8) * 42)] + [round((0.5 + 0.5 / 8) * 42)] * 2 + [21]


def test_a_second_fit_goes_on_from_what_is_left(classifier, fit) -> None:
    method, module = GradualPruning(0.5, interval=2, stop=4), classifier()
    fit(module, method)
    masks = dict(method.masks)
    counts = Counts(method)
    fit(module, method, counts)
    assert set(counts.kept) == {21}
    assert all(method.masks[name].equal(masks[name]) for name in masks)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"start": 4, "stop": 2}, "stop=2 is not allowed: it is update 2, and start=4 is update 4"),
        ({"stop": 7}, "stop=7 is not allowed: it is update 7, and the training has 6"),
        ({"exclude": "*"}, "exclude=.*everything"),
        ({"include": "nothing"}, "include='nothing'"),
    ],
)
def test_what_a_training_does_not_allow_is_said_before_it_starts(classifier, fit, bad, message) -> None:
    module = classifier()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    with pytest.raises(ArgumentError, match=f"GradualPruning: {message}"):
        fit(module, GradualPruning(**bad))
    assert all(one.equal(other) for one, other in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize(
    "bad",
    [
        {"density": 0},
        {"initial_density": 0.05},
        {"start": "then"},
        {"stop": 1.5},
        {"interval": 0},
        {"schedule": "cube"},
        {"scope": "all"},
        {"score": "size"},
        {"seed": -1},
    ],
    ids=str,
)
def test_bad_arguments(bad) -> None:
    (name,) = bad
    with pytest.raises(ArgumentError, match=f"GradualPruning: {name}="):
        GradualPruning(**bad)
