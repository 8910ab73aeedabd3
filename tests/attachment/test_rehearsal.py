"""Rehearsed updates: the gradients an update would have, and no trace of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_training import Ascend, Classifier, assert_same_bits, fit, half_precision, loader, perceptron, samples
from torch import Tensor, nn

from thunderstone import GradientStep, LossStep, Method, UpdatePlan, hookimpl
from thunderstone.isolation import Rehearsal, training_pass


class Rehearse(Method):
    """Rehearses updates of other batches, or of the micro-batches under way, in the middle of an update."""

    name = "rehearse"

    def __init__(self, own: bool = False) -> None:
        self.own = own
        self._found: list[Rehearsal] = []

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        if self.own:
            plan.request_recompute()

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        assert not step.rehearsal
        attachment = self.attachment
        before = [None if gradient is None else gradient.clone() for gradient in step.gradients]
        if self.own:
            self._found.append(attachment.rehearse(step.micro_batches, self))
        else:
            with training_pass("Rehearse", attachment.trainer, attachment.module, step.index) as batches:
                self._found += [attachment.rehearse([attachment.micro_batch(drawn)], self) for drawn in batches]
        for one, other in zip(step.gradients, before, strict=True):
            assert one is other is None or torch.equal(one, other)  # type: ignore[arg-type]


def batch_gradients(net: nn.Module, size: int = 4) -> list[list[Tensor]]:
    x, y = samples().tensors
    pairs = zip(x.split(size), y.split(size), strict=True)
    return [list(torch.autograd.grad(nn.functional.cross_entropy(net(a), b), list(net.parameters()))) for a, b in pairs]


def assert_gradients(found: list[Tensor | None], expected: list[Tensor], rtol: float = 1e-5) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other, rtol=rtol, atol=1e-7)


def test_gradients_of_other_batches() -> None:
    method = Rehearse()
    fit(Classifier(), method, max_steps=1)
    expected = batch_gradients(perceptron())
    assert len(method._found) == 6
    for rehearsal, gradients in zip(method._found, expected, strict=True):
        assert rehearsal.after is rehearsal.before
        assert rehearsal.losses == 1
        assert rehearsal.names == ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]
        assert_gradients(rehearsal.after, gradients)


def test_the_update_under_way_can_be_rehearsed() -> None:
    """Accumulated: its gradient is the one that the optimizer is about to be given."""
    method = Rehearse(own=True)
    fit(Classifier(), method, max_steps=1, accumulate_grad_batches=3)
    assert method._found[0].losses == 3
    assert_gradients(method._found[0].after, batch_gradients(perceptron(), size=12)[0])


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}], ids=str)
def test_nothing_is_left_of_it(own: bool, settings: dict[str, Any]) -> None:
    """Dropout, running statistics, momentum; with and without another method that changes gradients."""
    for company in ([], [Ascend()]):
        plain, rehearsed = (Classifier(perceptron(nn.BatchNorm1d(8), nn.Dropout(0.3))) for _ in range(2))
        fit(plain, *company, **settings)
        fit(rehearsed, Rehearse(own), *company, **settings)
        assert_same_bits(plain, rehearsed)


class Counting(Method):
    """Keeps count in an attribute, records, adds a term, and doubles gradients in place."""

    name = "counting"

    def __init__(self) -> None:
        self.steps = 0
        self.replays: list[bool] = []

    @hookimpl
    def loss_terms(self, step: LossStep) -> dict[str, Tensor]:
        self.replays.append(step.replay)
        return {"double": step.loss}

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        self.steps += 1
        self.record("steps", self.steps)
        for gradient in step.gradients:
            if gradient is not None:
                gradient.mul_(2)


@pytest.mark.parametrize("first", [True, False])
def test_what_other_methods_do_is_part_of_it(first: bool) -> None:
    method, counting = Rehearse(), Counting()
    fit(Classifier(), *([method, counting] if first else [counting, method]), max_steps=1)
    for rehearsal, gradients in zip(method._found, batch_gradients(perceptron()), strict=True):
        assert_gradients(rehearsal.before, [2 * gradient for gradient in gradients])
        assert_gradients(rehearsal.after, [4 * gradient for gradient in gradients])
    assert counting.steps == 1
    assert counting.replays == [False] + [True] * 6


def test_a_method_that_goes_through_the_batch_again() -> None:
    """Its second pass is over the rehearsed batch, at weights that it moves."""
    method, ascend = Rehearse(), Ascend(rho=0.5)
    fit(Classifier(), method, ascend, max_steps=1)
    for rehearsal, gradients, part in zip(method._found, batch_gradients(perceptron()), range(6), strict=True):
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        net = perceptron()
        with torch.no_grad():
            for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                parameter += 0.5 * gradient / norm
        assert_gradients(rehearsal.before, gradients)
        assert_gradients(rehearsal.after, batch_gradients(net)[part], rtol=1e-4)


def test_a_loss_scale_is_taken_off() -> None:
    method, counting = Rehearse(), Counting()
    fit(Classifier(), method, counting, max_steps=1, **half_precision())
    for rehearsal, gradients in zip(method._found, batch_gradients(perceptron()), strict=True):
        for found, times in ((rehearsal.before, 2), (rehearsal.after, 4)):
            for one, other in zip(found, gradients, strict=True):
                torch.testing.assert_close(one, times * other, rtol=0.02, atol=2e-3)


def test_a_failure_leaves_nothing_behind() -> None:
    class Failing(Counting):
        @hookimpl
        def transform_gradients(self, step: GradientStep) -> None:
            self.steps += 1
            if step.rehearsal:
                raise RuntimeError("on purpose")

    class Caught(Rehearse):
        @hookimpl
        def transform_gradients(self, step: GradientStep) -> None:
            with pytest.raises(RuntimeError, match="on purpose"):
                super().transform_gradients(step)

    plain, other, failing = Classifier(), Classifier(), Failing()
    fit(plain, Failing())
    fit(other, Caught(), failing)
    assert_same_bits(plain, other)
    assert failing.steps == 6


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_micro_batches_without_a_loss_are_counted_out() -> None:
    class Skipping(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx % 2 else self.loss(batch)

    method = Rehearse(own=True)
    fit(Skipping(), method, data=loader(), max_steps=1, accumulate_grad_batches=3)
    assert method._found[0].losses == 2


class LookFirst(Method):
    """Looks at the gradients of the first batch before training, and takes part in no step."""

    name = "look_first"
    exclusive = frozenset({"masks"})

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        with training_pass("LookFirst", trainer, pl_module) as batches:
            self._found = self.attachment.rehearse([self.attachment.micro_batch(next(batches))], self)


def test_a_method_without_step_hooks_can_look_too() -> None:
    method = LookFirst()
    plain, looked_at = Classifier(), Classifier()
    fit(looked_at, method, max_steps=2)
    fit(plain, max_steps=2)
    assert_gradients(method._found.before, batch_gradients(perceptron())[0])
    assert_same_bits(plain, looked_at)
