"""A second pass leaves no trace, and goes through exactly what the first went through."""

from __future__ import annotations

import logging
import queue
import random
import threading

import numpy as np
import pytest
import torch
from stateful_modules import (
    MODULES,
    Bookkeeping,
    CentredByHand,
    HiddenModule,
    Inner,
    Metrics,
    NormalisedPrototypes,
    OwnGenerators,
)
from tiny_training import (
    Again,
    Ascend,
    Classifier,
    assert_moved,
    assert_same_bits,
    assert_second_pass_is_the_first,
    fit,
    perceptron,
    state,
)
from torch import nn

# Two micro-batches and a ragged last window: 5 batches an epoch.
SETTINGS = {"accumulate_grad_batches": 2, "max_epochs": 2, "limit_train_batches": 5}


@pytest.mark.parametrize("name", MODULES)
def test_a_pass_at_the_same_weights_changes_nothing_and_repeats_the_first(name: str) -> None:
    plain, watched, method = MODULES[name](), MODULES[name](), Again()
    before = state(watched)
    for module, callbacks in ((plain, ()), (watched, (method,))):
        random.seed(5)
        np.random.seed(5)
        fit(module, *callbacks, **SETTINGS)
    assert_second_pass_is_the_first(method)
    assert_same_bits(plain, watched)
    assert_moved(before, watched)
    assert len(method._first) == 6


@pytest.mark.parametrize("name", ["random_draws", "own_generators"])
def test_generators_end_where_one_pass_leaves_them(name: str) -> None:
    ends = []
    for callbacks in ((), (Again(),), (Ascend(),)):
        random.seed(5)
        np.random.seed(5)
        module = MODULES[name]()
        fit(module, *callbacks)
        drawn = [random.random(), float(np.random.rand()), float(torch.rand(1))]
        if isinstance(module, OwnGenerators):
            own = torch.rand(1, generator=module.torch_generator).item()
            drawn += [own, module.numpy_generator.random(), module.python_generator.random()]
        ends.append(drawn)
    assert ends[0] == ends[1] == ends[2]


class MaskRecorder(nn.Module):
    """Dropout that shows its masks to someone outside of the module."""

    masks: list[torch.Tensor] = []  # noqa: RUF012 - shared on purpose: nothing in the module may be seen to change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.functional.dropout(torch.ones_like(x), 0.5)
        self.masks.append(mask)
        return x * mask


def test_dropout_masks_are_the_same_in_both_passes_and_new_in_every_step() -> None:
    MaskRecorder.masks.clear()
    fit(Classifier(perceptron(MaskRecorder())), Ascend(), accumulate_grad_batches=2)
    masks = MaskRecorder.masks
    assert len(masks) == 12  # 6 batches, each gone through twice
    for window in range(0, 12, 4):
        assert torch.equal(masks[window], masks[window + 2])
        assert torch.equal(masks[window + 1], masks[window + 3])
        assert not torch.equal(masks[window], masks[window + 1])


def test_running_statistics_see_one_pass_also_when_the_weights_are_perturbed() -> None:
    """With a learning rate of zero, statistics depend on the weights of the first pass alone."""
    ends = []
    for callbacks in ((), (Ascend(rho=2.0),)):
        net = perceptron(nn.BatchNorm1d(8), CentredByHand())
        fit(Classifier(net, _still), *callbacks)
        norm, own = net[1], net[2]
        ends.append((state(norm), own.mean.clone(), own.largest.clone(), own.spare.clone(), own.calls))
    plain, ascended = ends
    assert plain[0].keys() == ascended[0].keys()
    assert plain[0]["num_batches_tracked"] == ascended[0]["num_batches_tracked"] == 6
    for one, other in zip([*plain[0].values(), *plain[1:4]], [*ascended[0].values(), *ascended[1:4]], strict=True):
        assert torch.equal(one, other)
    assert plain[4] == ascended[4] == 6


def test_plain_attributes_see_one_pass() -> None:
    plain, watched = Bookkeeping(), Bookkeeping()
    fit(plain)
    fit(watched, Again())
    assert plain.kept() == watched.kept()
    assert watched.count == 6
    assert len(watched.losses) == 6
    assert len(watched.long) == 5006


def test_objects_keep_their_identity() -> None:
    """What holds a reference to a list, a buffer or a meter still sees what the module sees."""
    module = Bookkeeping()
    outside = (module.losses, module.seen, module.seen["inner"], module.meter, module.meter.running, module.array)
    fit(module, Ascend())
    inside = (module.losses, module.seen, module.seen["inner"], module.meter, module.meter.running, module.array)
    assert all(one is other for one, other in zip(outside, inside, strict=True))


def test_what_other_threads_use_is_left_alone() -> None:
    """A queue that a thread fills while the batch is gone through again keeps what it was given."""

    class Threaded(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.lock, self.queue, self.reporter = threading.Lock(), queue.Queue(), logging.getLogger("reporter")
            self.event = threading.Event()

        def training_step(self, batch: object, batch_idx: int) -> torch.Tensor:
            worker = threading.Thread(target=self.queue.put, args=(batch_idx,))
            worker.start()
            worker.join()
            return self.loss(batch)

    module = Threaded()
    fit(module, Ascend())
    assert module.queue.qsize() == 12
    assert sorted(module.queue.get() for _ in range(12)) == sorted([*range(6)] * 2)


def test_metrics_see_one_pass() -> None:
    plain, watched = Metrics(), Metrics()
    fit(plain)
    fit(watched, Again())
    assert plain.values() == watched.values()
    assert watched.values()["counts"] == [6] * 6


def test_a_module_kept_out_of_sight_sees_one_pass() -> None:
    plain, watched = HiddenModule(), HiddenModule()
    fit(plain)
    fit(watched, Again())
    assert_same_bits(plain.friends[0], watched.friends[0])
    assert watched.friends[0][1].num_batches_tracked == 6


def test_a_nested_lightning_module_sees_one_pass() -> None:
    module = Classifier(Inner())
    fit(module, Ascend())
    assert module.net.calls == 6
    assert module.net.net[1].num_batches_tracked == 6


def test_training_mode_set_in_the_step_stays_as_the_first_pass_left_it() -> None:
    class Freezing(Classifier):
        def training_step(self, batch: object, batch_idx: int) -> torch.Tensor:
            loss = self.loss(batch)
            if batch_idx == 1:
                self.net[1].eval()
            return loss

    plain, watched, method = Freezing(perceptron(nn.BatchNorm1d(8))), Freezing(perceptron(nn.BatchNorm1d(8))), Again()
    fit(plain)
    fit(watched, method)
    assert not watched.net[1].training
    assert_second_pass_is_the_first(method)
    assert_same_bits(plain, watched)


def test_weights_that_the_step_itself_projects_stay_where_the_first_pass_put_them() -> None:
    plain, watched, method = (*(NormalisedPrototypes(None, _still) for _ in range(2)), Ascend())
    fit(plain)
    fit(watched, method)
    assert_same_bits(plain, watched)
    torch.testing.assert_close(watched.net[-1].weight.norm(dim=1), torch.full((3,), 1.1))


def _still(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)
