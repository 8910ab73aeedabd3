"""Lightning's own callbacks and tools beside a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelPruning,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from tiny_training import (
    Again,
    Ascend,
    Classifier,
    assert_moved,
    assert_same_bits,
    assert_second_pass_is_the_first,
    fit,
    loader,
    perceptron,
    samples,
    state,
    trainer,
)
from torch import nn
from torch.utils.data import DataLoader

from thunderstone.lightning_private import skips_backward

COMPANY: dict[str, Callable[[], list[Callback]]] = {
    "weight averaging": lambda: [StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)],
    "pruning": lambda: [ModelPruning("l1_unstructured", amount=0.3)],
    "accumulation schedule": lambda: [GradientAccumulationScheduler({0: 2, 1: 4})],
    "timer": lambda: [Timer("00:01:00:00")],
}


def _classifier() -> Classifier:
    return Classifier(perceptron(nn.BatchNorm1d(8), nn.Dropout(0.3)))


@pytest.mark.filterwarnings("ignore:Swapping scheduler")
@pytest.mark.parametrize("name", COMPANY)
def test_looking_twice_changes_nothing_beside(name: str) -> None:
    plain, watched, method = _classifier(), _classifier(), Again()
    fit(plain, *COMPANY[name](), max_epochs=3)
    fit(watched, method, *COMPANY[name](), max_epochs=3)
    assert_same_bits(plain, watched)
    assert_second_pass_is_the_first(method)


@pytest.mark.filterwarnings("ignore:Swapping scheduler")
@pytest.mark.private_api
def test_an_epoch_that_only_goes_forward_is_left_to_lightning() -> None:
    """Weight averaging ends with one: no gradient is of that epoch, so there is none to look at, and none is kept."""

    class Watching(Callback):
        def on_train_batch_end(self, fitting: Trainer, module: Any, *_: Any) -> None:
            forward_only.append(skips_backward(fitting))
            kept.append(len(method.attachment.window.batches))

    forward_only: list[bool] = []
    kept: list[int] = []
    method = Ascend()
    fit(_classifier(), method, StochasticWeightAveraging(0.05, swa_epoch_start=1), Watching(), max_epochs=3)
    assert forward_only == [False] * 18 + [True] * 6
    assert len(method._first) == 18
    assert kept == [0] * 24


@pytest.mark.parametrize(
    "settings", [{"detect_anomaly": True}, {"profiler": "simple"}, {"deterministic": True}], ids=str
)
@pytest.mark.filterwarnings("ignore:You have turned on .Trainer.detect_anomaly=True")
def test_looking_twice_changes_nothing_under(settings: dict[str, Any]) -> None:
    plain, watched, method = _classifier(), _classifier(), Again()
    fit(plain, **settings)
    fit(watched, method, **settings)
    torch.use_deterministic_algorithms(False)
    assert_same_bits(plain, watched)
    assert_second_pass_is_the_first(method)


class Tunable(Classifier):
    """With a learning rate and a batch size to be found."""

    def __init__(self) -> None:
        super().__init__()
        self.lr, self.batch_size = 0.1, 2

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(samples(32), batch_size=self.batch_size)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("tool", ["lr_find", "scale_batch_size"])
def test_a_tuner_before_the_fit(tool: str) -> None:
    module, method = Tunable(), Ascend()
    fitting = trainer(method, enable_checkpointing=True)
    before, callbacks = state(module), list(fitting.callbacks)
    if tool == "lr_find":
        found = Tuner(fitting).lr_find(module, num_training=12)
        assert found is not None
        assert len(found.results["loss"]) == 12
    else:
        assert Tuner(fitting).scale_batch_size(module, max_trials=2, steps_per_trial=2) == 4
    assert_same_bits(before, module)
    assert fitting.callbacks == callbacks
    assert not {"training_step", "optimizer_step"} & vars(fitting.strategy).keys()
    method._first.clear()
    fitting.fit(module)
    assert len(method._first) == fitting.num_training_batches
    assert_moved(before, module)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_search_for_the_learning_rate_at_the_start_of_the_fit() -> None:
    module, method = Tunable(), Ascend()
    finder = LearningRateFinder(num_training_steps=8)
    fitting = trainer(method, finder, enable_checkpointing=True)
    fitting.fit(module, DataLoader(samples(80), batch_size=4))
    assert finder.optimal_lr is not None
    assert fitting.global_step == 20
    assert len(method._first) in (20, 28)  # the search may or may not come after the attachment


def test_data_modules_and_monitors(tmp_path: Any) -> None:
    class Data(LightningDataModule):
        def train_dataloader(self) -> DataLoader[Any]:
            return loader()

    logger = CSVLogger(tmp_path)
    method = Ascend()
    fit(Classifier(), method, LearningRateMonitor(), data=Data(), logger=logger, log_every_n_steps=1)
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert "lr-SGD" in rows[0]
    assert len(method._first) == 6


def test_loaders_that_are_built_anew_in_every_epoch() -> None:
    class Reloading(Classifier):
        def train_dataloader(self) -> DataLoader[Any]:
            return loader(8 + 4 * self.current_epoch)

    method = Again()
    fitting = trainer(method, max_epochs=3, reload_dataloaders_every_n_epochs=1)
    fitting.fit(Reloading())
    assert len(method._first) == 2 + 3 + 4
    assert_second_pass_is_the_first(method)
