"""The zoo is what it says it is: small, seeded, trainable, and different from module to module."""

from __future__ import annotations

import os

import pytest
import torch
from torch.utils.data import IterableDataset

from thunderstone.testing.comparison import differences
from thunderstone.testing.training import apart, train
from thunderstone.testing.zoo import CASES, Case
from thunderstone.testing.zoo.data import BATCHES


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_a_module_of_the_zoo_trains_to_the_same_bits_again(case: Case) -> None:
    with apart():
        first, again = train(case, []), train(case, [])
    assert differences(first.state, again.state) == []
    assert differences(first.entries, again.entries) == []
    assert any(not torch.equal(value, first.observer.weights[n]) for n, value in first.observer.initial.items())
    assert first.state["progress"]["batches"] == 2 * BATCHES


def test_the_zoo_has_what_methods_trip_over() -> None:
    modules = {name: case.module() for name, case in CASES.items()}
    assert modules["transformer"].head.weight is modules["transformer"].embedding.weight
    assert {type(child).__name__ for child in modules["mlp"].net} >= {"BatchNorm1d", "Dropout"}
    assert not any(parameter.requires_grad for parameter in modules["groups"].frozen.parameters())
    assert len(modules["groups"].configure_optimizers().param_groups) == 2
    assert isinstance(CASES["stream"].loader().dataset, IterableDataset)
    assert BATCHES % 3 != 0


def test_what_the_shell_says_about_trainers_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_TRAINER_MAX_EPOCHS", "1")
    monkeypatch.setenv("THUNDERSTONE_WITH", '["sam"]')
    with apart():
        run = train(CASES["mlp"], [])
    assert run.state["progress"]["batches"] == 2 * BATCHES
    assert not any(type(callback).__name__ == "SAM" for callback in run.trainer.callbacks)
    assert os.environ["PL_TRAINER_MAX_EPOCHS"] == "1"
    assert os.environ["THUNDERSTONE_WITH"] == '["sam"]'


def test_the_counting_of_hooks_is_out_of_the_modules_reach() -> None:
    with apart():
        run = train(CASES["mlp"], [])
    assert run.counts["on_after_backward"] == run.counts["optimizer.step"] == 2 * BATCHES
    assert run.counts["Callback.on_train_batch_end"] == 2 * BATCHES
    assert not any(value is run.counts for value in vars(run.module).values())
