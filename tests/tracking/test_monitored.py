"""What a method records can be monitored: it is among `trainer.callback_metrics`, as what `self.log` gets is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from reporting_run import Regression, trainer_for

import thunderstone
from thunderstone import Method, UpdateStep, hookimpl


class Counting(Method):
    """Reports a number that falls until the third epoch and rises from then on, at every epoch's end."""

    name = "counting"

    @hookimpl
    def after_update(self, step: UpdateStep) -> None:
        live = torch.tensor([float(step.index)])
        self.record("update", live)
        live.fill_(-1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.record("away", abs(trainer.current_epoch - 2))
        self.record("own_rank", trainer.global_rank + 1.0)


class Looking(Callback):
    """Notes what callbacks find at the end of every batch."""

    def __init__(self) -> None:
        self.found: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.found.append(dict(trainer.callback_metrics))


@pytest.mark.parametrize("settings", [{}, {"fast_dev_run": True}], ids=["no logger", "fast_dev_run"])
def test_values_are_there_at_once_and_nothing_else_changes(settings: dict[str, Any], tmp_path: Path) -> None:
    looking, trained = Looking(), []
    for callbacks in ([], [Counting(), looking]):
        torch.manual_seed(3)
        module = Regression()
        trainer_for(callbacks, max_epochs=1, default_root_dir=tmp_path, **settings).fit(module)
        trained.append(torch.nn.utils.parameters_to_vector(module.parameters()).detach())
    assert torch.equal(*trained)
    updates = [found["counting/update"] for found in looking.found]
    assert [float(value) for value in updates] == list(range(len(updates)))
    assert all(value.shape == () for value in updates)
    assert (tmp_path / "runs").exists() == (not settings), "with no logger records are in a folder, as ever"


def test_early_stopping_and_checkpoints_monitor_what_a_method_records(tmp_path: Path) -> None:
    stopping = EarlyStopping("counting/away", mode="min", patience=2)
    keeping = ModelCheckpoint(tmp_path, "{epoch}-{counting/away:.0f}", monitor="counting/away")
    trainer = trainer_for(
        [Counting(), stopping, keeping], max_epochs=9, default_root_dir=tmp_path, enable_checkpointing=True
    )
    trainer.fit(Regression())
    assert (trainer.current_epoch, stopping.stopped_epoch) == (5, 4)
    assert keeping.best_model_score == 0
    assert torch.load(keeping.best_model_path, weights_only=True)["epoch"] == 2
    assert trainer.callback_metrics["counting/away"] == 2


def test_what_is_no_scalar_is_not_there(tmp_path: Path) -> None:
    class Tables(Method):
        name = "tables"

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.record("layers", thunderstone.Table(["a"], [[1]]))
            self.record("counted", True)

    trainer = trainer_for(Tables(), max_epochs=1, default_root_dir=tmp_path)
    trainer.fit(Regression())
    assert {key: float(value) for key, value in trainer.callback_metrics.items()} == {"tables/counted": 1}


def test_other_ranks_have_their_own_values_and_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    monkeypatch.setattr(Trainer, "global_rank", property(lambda self: 1))
    trainer = trainer_for(Counting(), max_epochs=1, default_root_dir=tmp_path)
    trainer.fit(Regression())
    assert trainer.callback_metrics["counting/own_rank"] == 2
    assert not (tmp_path / "runs").exists()
