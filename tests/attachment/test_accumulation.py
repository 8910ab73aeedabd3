"""Micro-batches: a window of K is one batch of K times the size, also where the last window is a ragged one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from tiny_training import (
    Again,
    Ascend,
    Classifier,
    assert_moved,
    assert_second_pass_is_the_first,
    fit,
    loader,
    samples,
    state,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader

from thunderstone import GradientStep, Method, StepError, UpdatePlan, UpdateStep, hookimpl

MICRO = 4


class SummedLoss(Classifier):
    """Sums the loss over samples, so that a window's gradient is the sum over its samples however it is cut."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1], reduction="sum") * self.scale


@pytest.mark.parametrize("size", [1, 2, 3])
def test_micro_batches_equal_one_batch_with_a_ragged_last_window(size: int) -> None:
    # 5 micro-batches: for 2 and 3 the last window is a short one, and so is the last of the large batches.
    cut, whole = SummedLoss(size / (MICRO * size)), SummedLoss(1 / (MICRO * size))
    before = state(cut)
    fit(cut, Ascend(), data=loader(20, MICRO), accumulate_grad_batches=size, max_epochs=2)
    fit(whole, Ascend(), data=loader(20, MICRO * size), max_epochs=2)
    assert_moved(before, cut, 0.05)
    for name, value in state(cut).items():
        torch.testing.assert_close(value, whole.state_dict()[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_a_second_pass_goes_through_every_micro_batch_of_its_own_window(size: int) -> None:
    batches: list[list[float]] = []

    class Listening(Classifier):
        def loss(self, batch: Any) -> Tensor:
            batches.append(batch[0][:, 0].tolist())
            return super().loss(batch)

    fit(Listening(), Ascend(), data=loader(20, MICRO), accumulate_grad_batches=size)
    expected = []
    once = [batch[0][:, 0].tolist() for batch in loader(20, MICRO)]
    for first in range(0, 5, size):
        expected += once[first : first + size] * 2
    assert batches == expected


def test_the_number_of_micro_batches_may_change_between_epochs() -> None:
    method = Again()
    schedule = GradientAccumulationScheduler({0: 1, 1: 3, 2: 2})
    fit(Classifier(), method, schedule, data=loader(20, MICRO), max_epochs=3)
    assert_second_pass_is_the_first(method)
    assert len(method._first) == 5 + 2 + 3


def test_an_epoch_cut_short_by_max_steps_leaves_nothing_for_the_next_fit() -> None:
    module, method = Classifier(), Again()
    fit(module, method, data=loader(20, MICRO), accumulate_grad_batches=2, max_epochs=-1, max_steps=2)
    assert len(method._first) == 2
    fit(module, method, data=loader(20, MICRO), accumulate_grad_batches=2)
    assert_second_pass_is_the_first(method)
    assert len(method._first) == 5


def test_updates_are_numbered_like_global_step() -> None:
    class Numbers(Method):
        name = "numbers"

        def __init__(self) -> None:
            self._planned: list[int] = []
            self._seen: list[int] = []
            self._done: list[tuple[int, int]] = []

        @hookimpl
        def plan_update(self, plan: UpdatePlan) -> None:
            self._planned.append(plan.index)

        @hookimpl
        def transform_gradients(self, step: GradientStep) -> None:
            self._seen.append(step.index)

        @hookimpl
        def after_update(self, step: UpdateStep) -> None:
            assert not step.skipped
            self._done.append((step.index, step.trainer.global_step))

    method = Numbers()
    fit(Classifier(), method, data=loader(20, MICRO), accumulate_grad_batches=2, max_epochs=2)
    assert method._planned == method._seen == list(range(6))
    assert [index for index, _ in method._done] == list(range(6))


class EverySecond(Classifier):
    """Calls the closure alone on every other batch, whose gradients Lightning then zeroes before the next."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if batch_idx % 2 == 1:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()


def test_an_update_that_a_module_leaves_out_is_not_replayed_with_the_next_one() -> None:
    plain, watched, method = EverySecond(), EverySecond(), Again()
    fit(plain)
    fit(watched, method)
    assert len(method._first) == 3
    assert_second_pass_is_the_first(method)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


def test_accumulation_by_hand_is_refused_once_it_shows() -> None:
    class ByHand(EverySecond):
        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            if batch_idx % 2 == 0:
                optimizer.zero_grad()

    with pytest.raises(StepError, match=r"ByHand left out an optimizer step.*accumulate_grad_batches"):
        fit(ByHand(), Again())


def test_a_batch_of_several_loaders_is_recorded_whole() -> None:
    class Both(Classifier):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch["a"]) + 0.5 * super().loss(batch.pop("b"))

    method = Again()
    data = {"a": loader(20, MICRO), "b": DataLoader(samples(20, seed=3), batch_size=2)}
    fit(Both(), method, data=data, accumulate_grad_batches=2)
    assert_second_pass_is_the_first(method)
