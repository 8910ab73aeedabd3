"""What goes wrong in either pass leaves nothing behind: no perturbed weight, no gradient, no patch."""

from __future__ import annotations

import random
import signal
from collections import UserDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.loops.optimization.automatic import Closure
from stateful_modules import Bookkeeping
from tiny_training import (
    FEATURES,
    Again,
    Ascend,
    Classifier,
    assert_same_bits,
    assert_second_pass_is_the_first,
    fit,
    perceptron,
    samples,
    state,
    trainer,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader

from thunderstone import GradientStep, Method, StepError, hookimpl


class Accident(Exception):
    """What a training step raises."""


class Failing(Bookkeeping):
    """Raises on batch 2, in the given pass, after it has changed all it changes."""

    def __init__(self, in_pass: int, error: type[BaseException] = Accident) -> None:
        super().__init__()
        self.net = perceptron(nn.BatchNorm1d(8), nn.Dropout(0.3))
        self.in_pass, self.error = in_pass, error

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        if batch_idx == 2:
            _calls.append(1)
            if len(_calls) == self.in_pass:
                raise self.error
        return loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            _before.update(state(self))


# Outside of the module, where the attachment does not put them back.
_calls: list[int] = []
_before: dict[str, Tensor] = {}


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    _calls.clear()
    _before.clear()
    yield
    # Lightning turns the signal off for good once it has seen it, and says only once that a step returned None.
    signal.signal(signal.SIGINT, handler)
    Closure.warning_cache.clear()


def _fails(module: LightningModule, method: Ascend, raises: type[BaseException], **settings: Any) -> Trainer:
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    broken = trainer(method, **settings)
    with pytest.raises(raises):
        broken.fit(module, DataLoader(samples(24), batch_size=4))
    return broken


def _assert_nothing_left(module: Failing, broken: Trainer) -> None:
    weights = {name for name, _ in module.named_parameters()}
    after = state(module)
    assert_same_bits({name: after[name] for name in weights}, {name: _before[name] for name in weights})
    strategy = vars(broken.strategy)
    assert not {"training_step", "optimizer_step", "backward"} & strategy.keys()
    assert not {"log", "log_dict", "print"} & vars(module).keys()
    assert all(not hook for child in module.modules() for hook in (child._forward_hooks, child._forward_pre_hooks))


@pytest.mark.parametrize(("error", "raised"), [(Accident, Accident), (KeyboardInterrupt, SystemExit)])
@pytest.mark.parametrize("in_pass", [1, 2])
def test_an_exception_leaves_the_state_of_the_pass_it_happened_in(
    in_pass: int, error: type[BaseException], raised: type[BaseException]
) -> None:
    module = Failing(in_pass, error)
    broken = _fails(module, Ascend(), raised)
    _assert_nothing_left(module, broken)
    # A plain run that fails on the same batch has seen three batches, and so has this one.
    assert module.count == 3
    assert len(module.losses) == 3
    assert module.net[1].num_batches_tracked == 3


def test_an_exception_in_the_second_pass_leaves_what_one_pass_leaves() -> None:
    """Gradients, statistics, random state and logged values are those at the end of the first pass."""
    seen: dict[str, Any] = {}

    class Noting(Ascend):
        @hookimpl(tryfirst=True)
        def transform_gradients(self, step: GradientStep) -> None:
            if len(self._first) == 2:
                seen["gradients"] = [gradient.clone() for gradient in step.gradients if gradient is not None]
                seen["state"] = state(step.module)
                seen["random"] = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
                seen["logged"] = dict(step.module.trainer.callback_metrics)
                seen["loggers"] = list(step.module.trainer.loggers)
            super().transform_gradients(step)

    module = Failing(2)
    broken = _fails(module, Noting(), Accident)
    assert_same_bits(seen["state"], module)
    gradients = [parameter.grad for parameter in module.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(gradients, seen["gradients"], strict=True))
    assert torch.equal(torch.get_rng_state(), seen["random"][0])
    assert random.getstate() == seen["random"][1]
    assert np.random.get_state()[1].tolist() == seen["random"][2]
    assert broken.loggers == seen["loggers"]
    assert broken.callback_metrics == seen["logged"]


@pytest.mark.filterwarnings("ignore:.*fit.ckpt_path=")
def test_a_checkpoint_written_on_the_way_out_holds_unperturbed_weights(tmp_path: Any) -> None:
    module = Failing(2)
    torch.manual_seed(7)
    broken = trainer(Ascend(), OnExceptionCheckpoint(tmp_path), enable_checkpointing=True)
    with pytest.raises(Accident):
        broken.fit(module, DataLoader(samples(24), batch_size=4))
    saved = torch.load(tmp_path / "on_exception.ckpt", weights_only=True)["state_dict"]
    for name, _ in module.named_parameters():
        assert torch.equal(saved[name], _before[name])


def test_a_fit_after_a_failed_one_is_as_good_as_new() -> None:
    method = Ascend()
    _fails(Failing(2), method, Accident)
    method._first.clear()
    second, reference = Failing(99), Failing(99)
    fit(second, method)
    fit(reference, Ascend())
    assert len(method._first) == 6
    assert_same_bits(second, reference)


@pytest.mark.parametrize("which", ["transform_gradients", "after_update", "plan_update"])
def test_an_exception_in_a_hook_leaves_nothing_behind(which: str) -> None:
    class Broken(Ascend):
        pass

    def step_hook(self: Any, step: Any) -> None:
        raise Accident

    def plan_hook(self: Any, plan: Any) -> None:
        raise Accident

    setattr(Broken, which, hookimpl(plan_hook if which == "plan_update" else step_hook))
    module = Classifier()
    before = state(module)
    broken = trainer(Broken())
    with pytest.raises(Accident):
        broken.fit(module, DataLoader(samples(24), batch_size=4))
    if which != "after_update":
        assert_same_bits(before, module)
    assert not {"training_step", "optimizer_step"} & vars(broken.strategy).keys()


@pytest.mark.parametrize(
    "which", ["prepare_data", "plan_update", "compute_loss", "loss_terms", "transform_gradients", "after_update"]
)
def test_stop_iteration_in_a_hook_is_an_error_and_not_the_end_of_the_epoch(which: str) -> None:
    class Exhausted(Method):
        name = "exhausted"
        exclusive = frozenset({"objective"})

        @hookimpl(specname=which)
        def fetch(self) -> None:
            next(iter(()))

    with pytest.raises(StepError, match=f"the hook '{which}' of Exhausted raised StopIteration"):
        fit(Classifier(), Exhausted())


def test_weights_come_back_when_the_code_under_perturbed_raises() -> None:
    module = nn.Linear(3, 2)
    before = state(module)
    step = GradientStep(torch.optim.SGD(module.parameters(), lr=0.1), module)
    moved: list[bool] = []

    def look() -> None:
        with step.perturbed([torch.ones(2, 3), torch.ones(2)]):
            moved.append(not torch.equal(module.weight, before["weight"]))
            raise Accident

    with pytest.raises(Accident):
        look()
    assert moved == [True]
    assert_same_bits(before, module)


def test_a_delta_of_the_wrong_shape_leaves_weights_alone() -> None:
    module = nn.Linear(3, 2)
    before = state(module)
    step = GradientStep(torch.optim.SGD(module.parameters(), lr=0.1), module)
    with pytest.raises(RuntimeError), step.perturbed([torch.ones(2, 3), torch.ones(5)]):
        pytest.fail("the direction does not fit")
    assert_same_bits(before, module)


# -- losses that are none, or no number --------------------------------------------------------------------------------


class Skipping(Classifier):
    """Returns no loss on some batches."""

    def __init__(self, *skipped: int) -> None:
        super().__init__(perceptron(nn.BatchNorm1d(8)))
        self.skipped = skipped

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        loss = self.loss(batch)
        return None if batch_idx in self.skipped else loss


@pytest.mark.filterwarnings("ignore:.*training_step.* returned .None.")
@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("skipped", [(0,), (1,), (0, 1), (4, 5), tuple(range(6))])
def test_batches_without_a_loss_are_left_out_of_both_passes(accumulated: int, skipped: tuple[int, ...]) -> None:
    plain, watched, method = Skipping(*skipped), Skipping(*skipped), Again()
    fit(plain, accumulate_grad_batches=accumulated)
    fit(watched, method, accumulate_grad_batches=accumulated)
    assert_same_bits(plain, watched)
    if method._first:
        assert_second_pass_is_the_first(method)
    windows = [range(first, first + accumulated) for first in range(0, 6, accumulated)]
    assert len(method._first) == sum(not set(window) <= set(skipped) for window in windows)


def test_a_mapping_with_a_loss_is_as_good_as_the_loss() -> None:
    class Mapped(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
            return {"loss": self.loss(batch), "inputs": batch[0]}

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            assert outputs["inputs"] is batch[0]

    bare, mapped = Classifier(), Mapped()
    fit(bare, Ascend(), accumulate_grad_batches=2)
    fit(mapped, Ascend(), accumulate_grad_batches=2)
    assert_same_bits(bare, mapped)


def test_a_loss_of_nan_does_what_it_does_without_a_method() -> None:
    """Gradients of NaN reach the optimizer; weights are not left perturbed on top of it."""

    class Nan(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            return loss * torch.nan if batch_idx == 1 else loss

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            seen.append(state(self))

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            inside.append(state(self))

    seen: list[dict[str, Tensor]] = []
    inside: list[dict[str, Tensor]] = []
    ends = []
    for callbacks in ((), (Ascend(),)):
        seen.clear()
        inside.clear()
        module = Nan()
        fit(module, *callbacks, limit_train_batches=2)
        assert_same_bits(seen[1], inside[1])
        ends.append({name: value.isnan() for name, value in state(module).items()})
    assert_same_bits(*ends)
    assert all(bool(value.all()) for value in ends[0].values())


# -- batches that cannot be gone through again, and such that can ------------------------------------------------------


@dataclass
class Sample:
    """A batch in a class of one's own."""

    x: Tensor
    y: Tensor


class Pair(NamedTuple):
    """A batch with names."""

    x: Tensor
    y: Tensor


def _as(form: str, batch: list[Any]) -> Any:
    x, y = torch.stack([row[0] for row in batch]), torch.stack([row[1] for row in batch])
    forms: dict[str, Any] = {
        "list": [x, y],
        "tuple": (x, y),
        "dict": {"x": x, "y": y},
        "nested": {"x": [x], "rest": {"y": y}},
        "default": defaultdict(list, {"x": x, "y": y}),
        "user": UserDict({"x": x, "y": y}),
        "object": Sample(x, y),
        "named": Pair(x, y),
    }
    return forms[form]


FORMS = ("list", "tuple", "dict", "nested", "default", "user", "object", "named")


class Any_(Classifier):
    """Takes a batch apart, by popping where it can be popped from, and may write into its inputs first."""

    def __init__(self, writes: bool = False) -> None:
        super().__init__()
        self.writes = writes

    def loss(self, batch: Any) -> Tensor:
        if isinstance(batch, (Sample, Pair)):
            x, y = batch.x, batch.y
        elif isinstance(batch, (list, tuple)):
            x, y = batch
        else:
            x = batch.pop("x")
            y = batch["rest"].pop("y") if "rest" in batch else batch.pop("y")
            x = x.pop() if isinstance(x, list) else x
        if self.writes:
            x.mul_(2)
        return super().loss((x, y))


def _loader(form: str) -> DataLoader[Any]:
    return DataLoader(samples(12), batch_size=4, collate_fn=lambda batch: _as(form, batch))


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_may_be_taken_apart(form: str) -> None:
    plain, watched, method = Any_(), Any_(), Again()
    fit(plain, data=_loader(form))
    fit(watched, method, data=_loader(form))
    assert_second_pass_is_the_first(method)
    assert_same_bits(plain, watched)


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_changed_in_place_is_an_error_that_says_so(form: str) -> None:
    module = Any_(writes=True)
    before = state(module)
    with pytest.raises(StepError, match=rf"batch tensor of shape \(4, {FEATURES}\) in place.*HINT"):
        fit(module, Ascend(), data=_loader(form))
    assert_same_bits(before, module)


def test_a_second_pass_that_was_not_planned_is_an_error_that_says_how() -> None:
    class Unplanned(Ascend):
        @hookimpl
        def plan_update(self, plan: Any) -> None:
            assert plan.index == 0

    with pytest.raises(StepError, match=r"not recorded.*plan\.request_recompute\(\)"):
        fit(Classifier(), Unplanned())
