"""A method that owns the objective answers `training_step`, and everything else is as around the module's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from tiny_training import (
    Again,
    Ascend,
    Classifier,
    assert_moved,
    assert_same_bits,
    assert_second_pass_is_the_first,
    fit,
    half_precision,
    perceptron,
    state,
)
from torch import Tensor, nn

from thunderstone import CompositionError, HookError, LossStep, Method, ObjectiveStep, hookimpl
from thunderstone.isolation import training_pass


class Deaf(Classifier):
    """A module whose own objective is never to be asked for."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise AssertionError("the module's own training_step was called")


class Owner(Method):
    """Answers with the module's own loss, so that a run with it is one without, and writes down what it is asked."""

    name = "owner"
    exclusive = frozenset({"objective"})

    def __init__(self, as_mapping: bool = False, every: int = 1) -> None:
        self.as_mapping, self.every = as_mapping, every
        self._steps: list[tuple[int, int, bool, bool]] = []
        self._autocast: list[bool] = []

    @hookimpl
    def compute_loss(self, step: ObjectiveStep) -> Tensor | dict[str, Any] | None:
        self._steps.append((step.index, step.batch_number, step.replay, step.foreign))
        self._autocast.append(torch.is_autocast_enabled("cpu"))
        if step.batch_number % self.every:
            return None
        module: Any = step.module
        loss = module.loss(step.batch)
        return {"loss": loss, "more": 1} if self.as_mapping else loss


class Penalty(Method):
    """A loss term that looks at the loss it is added to."""

    name = "penalty"

    def __init__(self) -> None:
        self._losses: list[float] = []

    @hookimpl
    def loss_terms(self, step: LossStep) -> dict[str, Tensor]:
        self._losses.append(float(step.loss.detach()))
        return {"l2": sum((p.square().sum() for p in step.module.parameters()), torch.zeros(())) * 0.01}


def _dropping() -> nn.Module:
    return perceptron(nn.BatchNorm1d(8), nn.Dropout(0.4))


@pytest.mark.parametrize("as_mapping", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulate_grad_batches": 4}, {"gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}, half_precision()],
    ids=["plain", "accumulated", "clipped", "bf16-mixed", "16-mixed"],
)
def test_the_same_loss_trains_to_the_same_bits(settings: dict[str, Any], as_mapping: bool) -> None:
    plain, owned, owner = Classifier(_dropping()), Deaf(_dropping()), Owner(as_mapping)
    before = state(plain)
    fit(plain, **settings)
    fit(owned, owner, **settings)
    assert_same_bits(plain, owned)
    assert_moved(before, owned)
    assert [number for _, number, _, _ in owner._steps] == list(range(6))
    assert set(owner._autocast) == {"precision" in settings or "plugins" in settings}


def test_none_leaves_the_step_to_the_module() -> None:
    plain, shared = Classifier(_dropping()), Classifier(_dropping())
    fit(plain)
    fit(shared, Owner(every=2))
    assert_same_bits(plain, shared)


def test_loss_terms_are_added_to_it() -> None:
    plain, owned = Classifier(_dropping()), Deaf(_dropping())
    beside, added = Penalty(), Penalty()
    fit(plain, beside)
    fit(owned, Owner(), added)
    assert added._losses == beside._losses
    assert_same_bits(plain, owned)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_second_pass_asks_again(accumulate: int) -> None:
    again, owner = Again(), Owner()
    fit(Deaf(_dropping()), owner, again, accumulate_grad_batches=accumulate)
    assert_second_pass_is_the_first(again)
    firsts = [step[:2] for step in owner._steps if not step[2]]
    seconds = [step[:2] for step in owner._steps if step[2]]
    assert firsts == seconds == [(number // accumulate, number) for number in range(6)]


def test_a_perturbed_second_pass_is_that_of_the_plain_objective() -> None:
    plain, owned = Classifier(_dropping()), Deaf(_dropping())
    fit(plain, Ascend())
    fit(owned, Ascend(), Owner())
    assert_same_bits(plain, owned)


class Rehearses(Method):
    """Asks what the gradient of the next batches would be."""

    name = "rehearses"

    def __init__(self) -> None:
        self._after: list[Any] = []

    @hookimpl
    def after_update(self) -> None:
        attachment = self.attachment
        with training_pass("Rehearses", attachment.trainer, attachment.module) as batches:
            drawn = attachment.micro_batch(next(batches))
        self._after.append(attachment.rehearse([drawn], self).after)


def test_rehearsed_batches_are_told_apart() -> None:
    owner, rehearses = Owner(), Rehearses()
    plain, owned = Classifier(_dropping()), Deaf(_dropping())
    fit(plain)
    fit(owned, owner, rehearses, max_steps=2)
    assert [foreign for *_, foreign in owner._steps] == [False, True, False, True]
    assert all(gradient is not None for gradient in rehearses._after[0])


class AsksForTheModules(Owner):
    """What the module itself would say is within reach."""

    @hookimpl
    def compute_loss(self, step: ObjectiveStep) -> Any:
        return step.module.training_step(step.batch, 0)


def test_the_modules_own_step_is_within_the_owners_reach() -> None:
    plain, owned = Classifier(_dropping()), Classifier(_dropping())
    fit(plain)
    fit(owned, AsksForTheModules())
    assert_same_bits(plain, owned)


def test_who_calls_training_step_is_told_what_is_trained() -> None:
    owner, module = Owner(), Deaf()
    losses: list[Tensor] = []

    def ask(trainer: Any, _: Any, __: Any, batch: Any, number: int) -> None:
        with torch.no_grad():
            losses.append(module.training_step(batch, number) - module.loss(batch))

    fit(module, owner, LambdaCallback(on_train_batch_end=ask))
    assert losses == [0.0] * 6
    assert [foreign for *_, foreign in owner._steps] == [False, True] * 6


def test_nothing_is_left_in_the_module() -> None:
    module = Deaf()
    fit(module, Owner())
    assert "training_step" not in vars(module)

    class Fails(Owner):
        @hookimpl
        def compute_loss(self, step: ObjectiveStep) -> Tensor:
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match=r"on purpose"):
        fit(module, Fails())
    assert "training_step" not in vars(module)
    assert "training_step" not in vars(module.trainer.strategy)


def test_a_compiled_module_keeps_its_own_step() -> None:
    """`torch.compile` puts a training_step of its own into the module."""
    module = Classifier()
    vars(module)["training_step"] = own = module.training_step
    fit(module, Owner())
    assert vars(module)["training_step"] is own


def test_only_the_owner_may_answer() -> None:
    class Another(Owner):
        name = "another"

    class Undeclared(Owner):
        exclusive = frozenset()

    with pytest.raises(CompositionError, match=r"Owner and Another cannot be attached .* both own the objective"):
        fit(Classifier(), Owner(), Another())
    with pytest.raises(HookError, match=r"Undeclared implements compute_loss without owning the objective.*HINT"):
        fit(Classifier(), Undeclared())
