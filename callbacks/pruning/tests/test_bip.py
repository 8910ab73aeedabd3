"""Bi-level pruning."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback

from thunderstone import ArgumentError, Method, UnsupportedSettingError, hookimpl
from thunderstone_pruning import BiP

# Small problem, few updates: a rate at which masks move.
MOVING = {"mask_lr": 2.0, "mask_weight_decay": 0.01, "inverse_gamma": 0.3}


class Watches(Callback):
    """Notes after every update which weights are zero, and what the method keeps of the pruned ones."""

    def __init__(self, method) -> None:
        self.method, self.zeros, self.masks = method, [], []

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        named = dict(pl_module.named_parameters())
        self.masks.append(dict(self.method.masks))
        self.zeros.append(all((named[name][~mask] == 0).all() for name, mask in self.method.masks.items()))


@pytest.mark.parametrize(("interval", "stop"), [(1, None), (2, None), (1, 7)])
def test_masks_and_weights_are_those_written_by_hand(
    classifier, fit, by_hand, keep_by_sorting, same, dataset, interval, stop
) -> None:
    """Zhang et al. 2022, algorithm 1, equations 7 to 10; the weights' update on the batch the mask has moved on."""
    module = classifier(dtype=torch.float64)
    reference = by_hand(module)
    method = BiP(0.4, interval=interval, stop=stop, empty="refuse", **MOVING)
    fit(module, method, data=dataset(torch.float64), max_epochs=4)

    keep = round(0.4 * 42)
    theta = {name: reference.weights[name].clone() for name in reference.names}
    scores = {name: theta[name].abs() for name in reference.names}
    velocity = {name: torch.zeros_like(score) for name, score in scores.items()}
    reference.masks = keep_by_sorting(scores, keep)
    reference.mask()
    changes = 0
    for update in range(12):
        if update % interval == 0 and (stop is None or update < stop):
            gradients = reference.gradients(update % 3)
            for name in reference.names:
                mask, g = reference.masks[name], gradients[name]
                theta[name] = mask * reference.weights[name] + (1 - mask) * theta[name]
                slope = (theta[name] - 0.3 * (mask * g)) * g + 0.01 * scores[name]
                velocity[name] = 0.9 * velocity[name] + slope
                scores[name] = scores[name] - 2.0 * velocity[name]
            masks = keep_by_sorting({name: score - 1e6 for name, score in scores.items()}, keep)
            changes += sum(int((masks[name] != reference.masks[name]).sum()) for name in masks)
            reference.masks = masks
            for name in reference.names:
                reference.weights[name] = theta[name] * masks[name]
            reference.mask()
        reference.update()
    assert changes > 5
    same(module, reference.weights)
    found = {name: mask.double() for name, mask in method.masks.items()}
    assert all(found[name].equal(reference.masks[name]) for name in found)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0.1, 0.95), st.floats(0.01, 20))
def test_as_many_are_kept_at_every_moment(classifier, fit, density, rate) -> None:
    method = BiP(density, mask_lr=rate)
    watches = Watches(method)
    fit(classifier(), method, watches, max_epochs=1)
    assert all(watches.zeros)
    assert {sum(int(mask.sum()) for mask in masks.values()) for masks in watches.masks} == {round(density * 42)}


def test_a_weight_comes_back_with_the_value_it_had(classifier, fit) -> None:
    module = classifier()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    method = BiP(0.4, **MOVING)
    first, again = {}, []

    class Compares(Callback):
        def on_train_batch_start(self, trainer, pl_module, *_) -> None:
            first.update(first or dict(method.masks))

        def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
            for name, parameter in pl_module.named_parameters():
                if name in first:
                    came = method.masks[name] & ~first[name]
                    again.append((parameter.detach()[came], before[name][came]))
                    first[name] = first[name] | came

    fit(module, method, Compares(), max_epochs=3)
    assert sum(len(values) for values, _ in again) > 2
    assert all(values.equal(expected) for values, expected in again)


def test_a_batch_that_leaves_the_mask_alone_costs_no_second_pass(classifier, fit) -> None:
    calls = []
    module = classifier()
    step = module.training_step
    module.training_step = lambda *arguments: calls.append(1) or step(*arguments)
    fit(module, BiP(0.4, mask_lr=1e-9))
    assert len(calls) == 6


def test_a_loss_that_is_no_number_leaves_the_scores_alone(classifier, fit) -> None:
    module = classifier()
    step = module.training_step
    module.training_step = lambda batch, batch_idx: step(batch, batch_idx) * (float("nan") if batch_idx == 1 else 1.0)
    method = BiP(0.4, **MOVING)
    fit(module, method, max_epochs=1)
    assert all(score.isfinite().all() for score in method.state_dict()["scores"].values())
    assert method.masks.kept == round(0.4 * 42)


class Rehearses(Method):
    """Asks at every update what the gradient of this very batch would become."""

    name = "rehearses"

    def __init__(self, pruning: BiP) -> None:
        self.pruning, self.kept = pruning, []
        self.found: list[dict[str, torch.Tensor]] = []
        self.met: list[dict[str, torch.Tensor]] = []

    @hookimpl
    def plan_update(self, plan) -> None:
        plan.request_recompute()

    @hookimpl(wrapper=True)
    def transform_gradients(self, step):
        self.kept.append(dict(self.pruning.masks))
        rehearsal = self.attachment.rehearse(step.micro_batches, without=self)
        self.found.append(dict(zip(rehearsal.names, rehearsal.after, strict=True)))
        return (yield)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.met.append({name: parameter.grad.clone() for name, parameter in pl_module.named_parameters()})


def test_a_rehearsal_is_the_update_and_changes_nothing(classifier, fit) -> None:
    plain = fit(classifier(), BiP(0.4, **MOVING))
    method = BiP(0.4, **MOVING)
    rehearses = Rehearses(method)
    found = fit(classifier(), rehearses, method)
    assert all(a.equal(b) for a, b in zip(plain.parameters(), found.parameters(), strict=True))
    assert len(rehearses.found) == len(rehearses.met) == 6
    for rehearsed, met, kept in zip(rehearses.found, rehearses.met, rehearses.kept, strict=True):
        # The masks in force are put on what a rehearsal gives, and those are the ones before the update.
        expected = {name: met[name] * kept[name] if name in kept else met[name] for name in met}
        assert all(rehearsed[name].equal(expected[name]) for name in met)


def test_all_weights_is_the_plain_run(classifier, fit) -> None:
    plain, found = fit(classifier()), fit(classifier(), BiP(1.0))
    assert all(a.equal(b) for a, b in zip(plain.parameters(), found.parameters(), strict=True))


def test_manual_optimization_is_refused(classifier, fit) -> None:
    module = classifier()
    module.automatic_optimization = False
    with pytest.raises(UnsupportedSettingError, match="BiP cannot run with manual optimization"):
        fit(module, BiP())


@pytest.mark.parametrize(
    "bad",
    [
        {"density": 0},
        {"mask_lr": 0},
        {"mask_momentum": 1.0},
        {"mask_weight_decay": -1},
        {"inverse_gamma": -1},
        {"interval": 0},
        {"stop": "then"},
        {"empty": "keep"},
    ],
    ids=str,
)
def test_bad_arguments(bad) -> None:
    (name,) = bad
    with pytest.raises(ArgumentError, match=f"BiP: {name}="):
        BiP(**bad)
