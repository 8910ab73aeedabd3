"""What sits in every run of a comparison: it sees everything, and changes nothing."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from thunderstone import Method, hookimpl
from thunderstone.comparison.observer import Observer, Outcome
from thunderstone.comparison.picture import read_curve


class Logging(LightningModule):
    """8 batches an epoch; logs a loss, its own step's number, and a constant."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.data = TensorDataset(torch.linspace(-1, 1, 64).reshape(16, 4))
        self.seen = 0

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch[0]).square().mean()
        self.seen += 1
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("seen", float(self.seen))
        self.log("constant", 1.0)

    def test_step(self, batch, batch_idx):
        self.log("test_seen", float(self.seen))

    def on_train_epoch_end(self):
        self.log("late", float(self.current_epoch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=2, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.data, batch_size=16)

    test_dataloader = val_dataloader


class Twice(Method):
    """Computes every gradient a second time."""

    name = "twice"

    @hookimpl
    def plan_update(self, plan):
        plan.request_recompute()

    @hookimpl
    def transform_gradients(self, step):
        step.recompute()


def trainer(*callbacks, **settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    defaults = {"accelerator": "cpu", "logger": False, "max_epochs": 2, **quiet}
    return Trainer(callbacks=list(callbacks), **{**defaults, **settings})


def outcome(folder):
    return json.loads((folder / "outcome.json").read_text())


def curve(folder, key):
    return read_curve(folder / "scalars.csv", key)


def test_the_last_value_of_everything_that_is_logged_is_kept(tmp_path):
    observed = trainer(Observer(Outcome(tmp_path)))
    module = Logging()
    observed.fit(module)
    loss = float(observed.callback_metrics["train_loss"])
    observed.test(module, verbose=False)
    expected = {"train_loss": loss, "seen": 16.0, "constant": 1.0, "late": 1.0, "test_seen": 16.0}
    found = outcome(tmp_path)
    assert found["metrics"] == expected
    assert (found["passes"], found["steps"]) == (16, 16)
    assert found["fit_seconds"] > 0


def test_curves_have_a_point_for_every_value_at_its_step(tmp_path):
    observed = trainer(Observer(Outcome(tmp_path)), val_check_interval=0.5)
    observed.fit(Logging())
    assert curve(tmp_path, "seen") == [(3, 4.0), (7, 8.0), (11, 12.0), (15, 16.0)]
    assert curve(tmp_path, "constant") == [(step, 1.0) for step in (3, 7, 11, 15)]
    assert [step for step, _ in curve(tmp_path, "train_loss")] == [7, 15]
    assert curve(tmp_path, "late") == [(7, 0.0), (15, 1.0)]


def test_the_curve_of_a_training_metric_is_of_its_epochs_and_ends_with_its_last_value(tmp_path):
    class Both(Logging):
        def training_step(self, batch, batch_idx):
            loss = self.layer(batch[0]).square().mean()
            # While an epoch goes on, "train" is the value of the step; after it, the mean over the epoch.
            self.log("train", loss, on_step=True, on_epoch=True)
            self.log("undefined", float("nan"), on_step=True, on_epoch=True)
            return loss

    trainer(Observer(Outcome(tmp_path)), val_check_interval=0.5, num_sanity_val_steps=0).fit(Both())
    means = curve(tmp_path, "train_epoch")
    assert [step for step, _ in means] == [7, 15]
    assert curve(tmp_path, "train") == means
    assert means[-1][1] == outcome(tmp_path)["metrics"]["train"]
    lines = (tmp_path / "scalars.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines if ",undefined," in line] == ["7", "15"]


def test_second_passes_of_a_method_count(tmp_path):
    trainer(Observer(Outcome(tmp_path)), Twice()).fit(Logging())
    assert (outcome(tmp_path)["passes"], outcome(tmp_path)["steps"]) == (32, 16)


def test_several_trainers_of_a_script_add_up(tmp_path):
    whole = Outcome(tmp_path)
    module = Logging()
    trainer(Observer(whole), max_epochs=1).fit(module)
    trainer(Observer(whole), max_epochs=2).fit(module)
    found = outcome(tmp_path)
    assert (found["passes"], found["steps"], found["metrics"]["seen"]) == (24, 24, 24.0)


def test_validation_alone_is_enough_for_a_metric(tmp_path):
    trainer(Observer(Outcome(tmp_path))).validate(Logging(), verbose=False)
    found = outcome(tmp_path)
    assert (found["metrics"], found["fit_seconds"], found["passes"]) == ({"seen": 0.0, "constant": 1.0}, None, None)
    assert not (tmp_path / "scalars.csv").exists()


def test_the_training_is_the_same_to_the_last_bit(tmp_path):
    def weights(*callbacks):
        torch.manual_seed(3)
        module = Logging()
        trainer(*callbacks).fit(module)
        return [*module.layer.parameters(), torch.rand(1)]

    plain, observed = weights(), weights(Observer(Outcome(tmp_path)))
    assert all(torch.equal(one, other) for one, other in zip(plain, observed, strict=True))


def test_nothing_stays_behind_even_after_an_exception(tmp_path):
    class Failing(Logging):
        def validation_step(self, batch, batch_idx):
            if not self.trainer.sanity_checking:
                raise ValueError("no data")

    observed = trainer(Observer(Outcome(tmp_path)))
    with pytest.raises(ValueError, match="no data"):
        observed.fit(Failing())
    assert "backward" not in vars(observed.precision_plugin)
    finished = trainer(Observer(Outcome(tmp_path)))
    finished.fit(Logging())
    assert "backward" not in vars(finished.precision_plugin)
