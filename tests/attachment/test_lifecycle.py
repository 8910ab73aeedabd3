"""A method on a Trainer: attached for a fit, gone afterwards, fit for another."""

from __future__ import annotations

import copy
import pickle
import weakref
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tiny_training import (
    Again,
    Ascend,
    Classifier,
    Spy,
    assert_moved,
    assert_same_bits,
    fit,
    loader,
    perceptron,
    state,
    trainer,
)
from torch import Tensor, nn

from thunderstone import ExactResume, Method, StepError


class Validated(Classifier):
    """With every kind of evaluation step."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.loss(batch))

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])


def test_a_fit_leaves_the_trainer_and_the_module_as_they_were() -> None:
    module, method = Classifier(), Ascend()
    fitting = trainer(method)
    attributes = set(vars(module)) | {"_trainer"}
    callbacks, strategy = list(fitting.callbacks), set(vars(fitting.strategy))
    fitting.fit(module, loader())
    assert fitting.callbacks == callbacks
    assert not {"training_step", "optimizer_step", "process_dataloader"} & set(vars(fitting.strategy))
    assert strategy <= set(vars(fitting.strategy))
    assert not {"log", "log_dict", "print", "training_step"} & (set(vars(module)) - attributes)
    assert not module._forward_hooks
    with pytest.raises(StepError, match="Ascend is not attached to a Trainer"):
        _ = method.attachment


def test_a_patch_of_someone_else_on_the_strategy_is_put_back() -> None:
    fitting = trainer(Ascend())
    calls: list[int] = []
    original = fitting.strategy.training_step

    def patched(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        return original(*arguments, **keywords)

    fitting.strategy.training_step = patched
    fitting.fit(Classifier(), loader())
    assert fitting.strategy.training_step is patched
    assert len(calls) == 12


def test_a_second_fit_with_the_same_trainer_goes_on() -> None:
    once, twice, method = Classifier(), Classifier(), Ascend()
    fit(once, Ascend(), max_epochs=2)
    torch.manual_seed(7)
    fitting = trainer(method)
    fitting.fit(twice, loader())
    fitting.fit_loop.max_epochs = 2
    middle = state(twice)
    fitting.fit(twice, loader())
    assert len(method._first) == 12
    assert_moved(middle, twice)
    # Momentum starts anew in a second fit, so only the number of updates is the same.
    assert fitting.global_step == 12


def test_one_method_serves_two_trainers_one_after_the_other() -> None:
    shared = Ascend()
    first, second, reference = Classifier(), Classifier(), Classifier()
    fit(first, shared)
    fit(second, shared)
    fit(reference, Ascend())
    assert_same_bits(first, reference)
    assert_same_bits(second, reference)


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_alone_attaches_nothing(stage: str) -> None:
    class Attached(Ascend):
        def on_attach(self, *_: Any) -> None:
            raise AssertionError("attached")

    module = Validated()
    before = state(module)
    evaluating = trainer(Attached())
    callbacks = list(evaluating.callbacks)
    getattr(evaluating, stage)(module, loader(), verbose=False) if stage != "predict" else evaluating.predict(
        module, loader()
    )
    assert_same_bits(before, module)
    assert evaluating.callbacks == callbacks


def test_evaluation_before_between_and_after() -> None:
    plain, watched = Validated(), Validated()
    for module, callbacks in ((plain, ()), (watched, (Again(),))):
        torch.manual_seed(7)
        fitting = trainer(*callbacks, num_sanity_val_steps=1, max_epochs=2)
        fitting.validate(module, loader(), verbose=False)
        fitting.fit(module, loader(), loader(8, seed=3))
        fitting.test(module, loader(), verbose=False)
    assert_same_bits(plain, watched)


@pytest.mark.parametrize("settings", [{"fast_dev_run": True}, {"overfit_batches": 2}, {"barebones": True}], ids=str)
def test_a_trainers_shortcuts(settings: dict[str, Any]) -> None:
    if settings.get("barebones"):
        settings = {**settings, "enable_checkpointing": None, "logger": None, "enable_progress_bar": None}
        settings = {**settings, "enable_model_summary": None}
    plain, watched, method = Classifier(), Classifier(), Again()
    fit(plain, **settings)
    fit(watched, method, **settings)
    assert method._first
    assert_same_bits(plain, watched)


def test_an_attached_method_can_be_copied_and_pickled() -> None:
    copies: list[Ascend] = []

    class Copying(Callback):
        def on_train_batch_end(self, fitting: Any, *_: Any) -> None:
            method = next(callback for callback in fitting.callbacks if isinstance(callback, Ascend))
            assert method.attachment.trainer is fitting
            copies.extend([copy.deepcopy(method), copy.copy(method), pickle.loads(pickle.dumps(method))])

    fit(Classifier(), Ascend(rho=0.3), Copying(), limit_train_batches=1)
    assert len(copies) == 3
    for twin in copies:
        assert twin.rho == 0.3
        assert twin._attachment is None
        assert repr(twin) == "Ascend(rho=0.3, sync=True)"
    module, reference = Classifier(), Classifier()
    fit(module, copies[0])
    fit(reference, Ascend(rho=0.3))
    assert_same_bits(module, reference)


def test_a_module_can_be_copied_in_the_middle_of_a_run() -> None:
    copies: list[Classifier] = []

    class Copying(Callback):
        def on_train_batch_end(self, fitting: Any, module: Any, *_: Any) -> None:
            copies.append(copy.deepcopy(module.net))

    fit(Classifier(perceptron(nn.BatchNorm1d(8))), Ascend(), Copying())
    assert len(copies) == 6


def test_attach_and_detach_come_in_pairs_whatever_happens() -> None:
    events: list[str] = []

    class Paired(Spy):
        def on_attach(self, *_: Any) -> None:
            events.append("attach")

        def on_detach(self, *_: Any) -> None:
            events.append("detach")

    class Broken(Classifier):
        def configure_optimizers(self) -> Any:
            raise ValueError("no optimizer today")

    fit(Classifier(), Paired())
    with pytest.raises(ValueError, match="no optimizer today"):
        fit(Broken(), Paired())
    assert events == ["attach", "detach"] * 2


def test_every_method_is_detached_even_if_one_fails_to() -> None:
    events: list[str] = []

    class Clumsy(Spy):
        name = "clumsy"

        def on_detach(self, *_: Any) -> None:
            raise ValueError("dropped it")

    class Careful(Method):
        name = "careful"

        def on_detach(self, *_: Any) -> None:
            events.append("detached")

    clumsy, careful = Clumsy(), Careful()
    fitting = trainer(clumsy, careful)
    with pytest.raises(ValueError, match="dropped it"):
        fitting.fit(Classifier(), loader())
    assert events == ["detached"]


def test_a_callback_that_the_module_brings_is_attached() -> None:
    method = Ascend()

    class Bringing(Classifier):
        def configure_callbacks(self) -> list[Callback]:
            return [method]

    brought, given = Bringing(), Classifier()
    fit(brought)
    fit(given, Ascend())
    assert len(method._first) == 6
    assert_same_bits(brought, given)


def test_exact_resume_is_attached_with_a_method_and_leaves_with_it() -> None:
    present: list[int] = []

    class Looking(Callback):
        def on_train_start(self, fitting: Any, *_: Any) -> None:
            present.append(sum(isinstance(callback, ExactResume) for callback in fitting.callbacks))

    for callbacks in ((Again(), Looking()), (Looking(), ExactResume(), Again()), (Looking(),)):
        fitted = fit(Classifier(), *callbacks)
        assert sum(isinstance(callback, ExactResume) for callback in fitted.callbacks) == sum(
            isinstance(callback, ExactResume) for callback in callbacks
        )
    assert present == [1, 1, 0]


def test_nothing_holds_on_to_what_was_trained() -> None:
    method = Again()
    module = Classifier()
    fit(module, method, max_epochs=1)
    method._parameters.clear()
    remembered = weakref.ref(module)
    del module
    assert remembered() is None or method._attachment is None


def test_a_method_without_hooks_leaves_the_strategy_alone() -> None:
    class Quiet(Method):
        name = "quiet"

        def on_train_start(self, fitting: Any, *_: Any) -> None:
            assert not {"training_step", "optimizer_step"} & vars(fitting.strategy).keys()

    plain, quiet = Classifier(), Classifier()
    fit(plain)
    fit(quiet, Quiet())
    assert_same_bits(plain, quiet)
