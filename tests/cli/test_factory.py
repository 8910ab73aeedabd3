"""What Lightning gets from the factory, in whatever process it builds a Trainer."""

from __future__ import annotations

import importlib.metadata

import pytest

from thunderstone.cli import factory
from thunderstone.errors import RequestError, UnsupportedSettingError


def test_lightning_finds_the_factory():
    points = importlib.metadata.entry_points(group="lightning.pytorch.callbacks_factory")
    assert [point.value for point in points if point.name == "thunderstone"] == ["thunderstone.cli.factory:callbacks"]


@pytest.mark.parametrize("variables", [{}, {"THUNDERSTONE_WITH": ""}], ids=["unset", "empty"])
def test_it_returns_nothing_and_imports_nothing(shell, variables):
    ours = shell.python(
        "-c",
        "import sys, thunderstone.cli.factory as factory\n"
        "before = set(sys.modules)\n"
        "assert factory.callbacks() == [] and factory.pytorch_lightning_callbacks() == []\n"
        "assert factory.trainers_built == 0\n"
        "print(sorted(set(sys.modules) - before), {'torch', 'lightning', 'typer', 'rich'} & set(sys.modules))",
        **variables,
    )
    assert (ours.returncode, ours.stdout) == (0, "[] set()\n"), ours.stderr


def test_it_builds_new_methods_for_every_trainer(marking, monkeypatch):
    monkeypatch.setattr(factory, "trainers_built", 0)
    monkeypatch.setenv("THUNDERSTONE_WITH", '[{"name": "mark", "arguments": {"amount": 2}}, {"name": "stateful"}]')
    first, second = factory.callbacks(), factory.callbacks()
    assert [type(method) for method in first] == [marking.Mark, marking.Stateful]
    assert first[0].amount == 2.0
    assert not {id(method) for method in first} & {id(method) for method in second}
    assert factory.trainers_built == 2


def test_a_trainer_is_not_built_without_the_methods_that_were_asked_for(monkeypatch):
    from lightning.pytorch import Trainer

    monkeypatch.setenv("THUNDERSTONE_WITH", "sam")
    with pytest.raises(RequestError, match="THUNDERSTONE_WITH='sam' is not JSON"):
        Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)


def test_trainers_of_the_other_package_are_refused(monkeypatch):
    monkeypatch.setenv("THUNDERSTONE_WITH", '[{"name": "mark"}]')
    with pytest.raises(UnsupportedSettingError, match=r"cannot run with a Trainer of `pytorch_lightning`.*HINT: write"):
        factory.pytorch_lightning_callbacks()
