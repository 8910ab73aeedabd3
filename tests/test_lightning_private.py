"""What is read of Lightning's internals means what it is taken to mean; fails loudly where Lightning changes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.utils.data import DataLoader

from thunderstone.lightning_private import logging_step

pytestmark = pytest.mark.private_api


class Kept(Logger):
    """Keeps what is logged, by key: the steps at which it was."""

    name = "kept"
    version = 0

    def __init__(self) -> None:
        self.steps: dict[str, list[int | None]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for key in metrics:
            self.steps.setdefault(key, []).append(step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


class Logging(LightningModule):
    """Logs in every hook that can, and notes what `logging_step` says there."""

    def __init__(self, automatic: bool) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.automatic_optimization = automatic
        self.noted: dict[str, list[int]] = {}

    def note(self, key: str) -> None:
        self.log(key, 1.0, batch_size=1)
        if not self.trainer.sanity_checking:
            self.noted.setdefault(key, []).append(logging_step(self.trainer))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.note("in_batch")
        loss = self.layer(batch).mean()
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            # Two optimizer steps a batch: `global_step` counts both, the loggers' step one.
            for _ in range(2):
                optimizer.step()
        return loss

    def on_train_epoch_end(self) -> None:
        self.note("epoch_end")

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        return None

    def on_validation_epoch_end(self) -> None:
        self.note("validation_end")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.ones(5, 2))

    def val_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.ones(1, 2))


def _trainer(root: Path, logger: Logger, **settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        default_root_dir=root,
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


@pytest.mark.parametrize(
    ("automatic", "settings"),
    [(True, {}), (False, {}), (True, {"val_check_interval": 2, "num_sanity_val_steps": 1})],
    ids=["automatic", "manual", "validation within the epoch"],
)
def test_logging_step_is_where_self_log_writes(automatic: bool, settings: dict[str, Any], tmp_path: Path) -> None:
    module, logger = Logging(automatic), Kept()
    _trainer(tmp_path, logger, max_epochs=3, **settings).fit(module)
    assert set(module.noted) == {"in_batch", "epoch_end", "validation_end"}
    assert {key: logger.steps[key] for key in module.noted} == module.noted
    assert module.noted["epoch_end"] == [4, 9, 14]


def test_logging_step_after_a_resume(tmp_path: Path) -> None:
    first = _trainer(tmp_path, Kept(), max_epochs=2)
    first.fit(Logging(True))
    first.save_checkpoint(tmp_path / "last.ckpt")
    module, logger = Logging(True), Kept()
    _trainer(tmp_path, logger, max_epochs=3).fit(module, ckpt_path=tmp_path / "last.ckpt")
    assert module.noted["in_batch"] == [10, 11, 12, 13, 14]
    assert {key: logger.steps[key] for key in module.noted} == module.noted
