"""A run that dies and is resumed ends with the same bits as one that does not die."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interrupted_runs import check_exact, differences_after_resume, interrupted
from resumable_program import Setting

pytestmark = [
    pytest.mark.private_api,
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train dataloader shuffling"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined"),
]

EVERYTHING = ("torch", "numpy", "python", "own")

# Seven batches an epoch, three epochs.
SINGLE_PROCESS: dict[str, dict[str, Any]] = {
    "after the first batch": {"save": ("on_train_batch_end", 1), "kill_at": 2},
    "in mid-epoch": {"save": ("on_train_batch_end", 10), "kill_at": 12},
    "after an epoch's last batch": {"save": ("on_train_batch_end", 14), "kill_at": 15},
    "after the last batch, scheduler on the metric": {
        "save": ("on_train_batch_end", 14),
        "kill_at": 15,
        "scheduler": "plateau",
    },
    "before training": {"save": ("on_train_start", 1), "kill_at": 2},
    "before the loops": {"save": ("on_fit_start", 1), "kill_at": 2},
    "at an epoch's start": {"save": ("on_train_epoch_start", 2), "kill_at": 9},
    "at the first epoch's start": {"save": ("on_train_epoch_start", 1), "kill_at": 2},
    "at an epoch's end": {"save": ("on_train_epoch_end", 1), "kill_at": 9},
    "at an epoch's end, no validation": {"save": ("on_train_epoch_end", 2), "kill_at": 15, "validation": False},
    "at an epoch's end, scheduler on the metric": {
        "save": ("on_train_epoch_end", 1),
        "kill_at": 9,
        "scheduler": "plateau",
        "validation": False,
    },
    "in mid-epoch, scheduler on the epoch's mean": {
        "save": ("on_train_batch_end", 9),
        "kill_at": 11,
        "scheduler": "plateau",
        "validation": False,
    },
    "in mid-epoch, scheduler by epoch": {"save": ("on_train_batch_end", 9), "kill_at": 11, "scheduler": "epoch"},
    "after a validation": {"save": ("on_validation_end", 1), "kill_at": 9, "scheduler": "epoch"},
    "after a validation in mid-epoch": {"save": ("on_validation_end", 4), "kill_at": 15, "val_check_interval": 0.4},
    "before a validation in mid-epoch": {"save": ("on_train_batch_end", 9), "kill_at": 15, "val_check_interval": 2},
    "between two micro-batches": {"save": ("on_train_batch_end", 11), "kill_at": 12, "accumulate": 3},
    "in a ragged last window": {
        "save": ("on_train_batch_end", 13),
        "kill_at": 14,
        "accumulate": 4,
        "val_check_interval": 6,
    },
    "validated between two micro-batches": {
        "save": ("on_validation_end", 3),
        "kill_at": 12,
        "accumulate": 4,
        "val_check_interval": 3,
    },
    "manual optimization": {"save": ("on_train_batch_end", 11), "kill_at": 13, "manual": True},
    "with a limit in steps": {"save": ("on_train_batch_end", 11), "kill_at": 13, "max_steps": 17, "epochs": -1},
    "with a limit in batches": {"save": ("on_train_batch_end", 8), "kill_at": 9, "limit_train_batches": 5},
    "with loaders asked for again": {"save": ("on_train_batch_end", 16), "kill_at": 17, "reload_every": 2},
    "with loaders asked for every epoch": {"save": ("on_train_epoch_end", 2), "kill_at": 16, "reload_every": 1},
    "overfitting": {"save": ("on_train_batch_end", 7), "kill_at": 8, "extra": {"overfit_batches": 3}},
    "before it stops early": {"save": ("on_validation_end", 1), "kill_at": 10, "stop_early": True},
    "sampling with weights": {"save": ("on_train_batch_end", 10), "kill_at": 12, "loader": "weighted"},
    "a sampler that counts epochs": {"save": ("on_train_batch_end", 10), "kill_at": 12, "loader": "counting_sampler"},
    "a sampler that counts, epoch's end": {
        "save": ("on_train_epoch_end", 1),
        "kill_at": 10,
        "loader": "counting_sampler",
    },
    "a loader with a generator": {"save": ("on_train_batch_end", 10), "kill_at": 12, "loader": "generator"},
    "two loaders": {"save": ("on_train_batch_end", 6), "kill_at": 7, "loader": "combined"},
    "two loaders, one of them again in mid-epoch": {
        "save": ("on_train_batch_end", 13),
        "kill_at": 14,
        "loader": "cycled",
    },
    "a loader that is no DataLoader": {"save": ("on_train_batch_end", 10), "kill_at": 12, "loader": "batches"},
    "ModelCheckpoint by steps": {
        "checkpoint": {"every_n_train_steps": 2, "save_top_k": -1},
        "kill_at": 12,
        "accumulate": 2,
    },
    "ModelCheckpoint by a validation metric": {
        "checkpoint": {"save_top_k": 2, "monitor": "val_loss", "save_last": True},
        "kill_at": 12,
    },
    "ModelCheckpoint by a training metric": {
        "checkpoint": {"save_top_k": 1, "monitor": "loss_epoch", "save_on_train_epoch_end": True, "mode": "max"},
        "kill_at": 15,
    },
}


@pytest.mark.parametrize("case", SINGLE_PROCESS.values(), ids=SINGLE_PROCESS.keys())
def test_without_workers(case: dict[str, Any], tmp_path: Path) -> None:
    augment = () if case.get("loader") == "batches" else EVERYTHING
    check_exact(Setting(augment=augment, **case), tmp_path)


@pytest.mark.parametrize(
    "save", [("on_train_batch_end", 11), ("on_train_epoch_end", 1)], ids=["mid-epoch", "epoch end"]
)
@pytest.mark.parametrize(
    ("loader", "persistent"),
    [("plain", False), ("plain", True), ("iterable", True), ("cycled", True), ("stateful", False), ("stateful", True)],
)
def test_with_workers(loader: str, persistent: bool, save: tuple[str, int], tmp_path: Path) -> None:
    setting = Setting(
        loader=loader, workers=2, persistent=persistent, augment=EVERYTHING, accumulate=3, save=save, kill_at=12
    )
    check_exact(setting, tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("loader", ["stateful", "stateful_iterable", "iterable", "sized_iterable"])
def test_loaders_that_keep_their_own_place_or_none(loader: str, workers: int, tmp_path: Path) -> None:
    augment = EVERYTHING if workers or loader.startswith("stateful") else ()
    check_exact(
        Setting(loader=loader, workers=workers, augment=augment, save=("on_train_batch_end", 10), kill_at=12), tmp_path
    )


def test_batches_fetched_ahead_in_the_training_process_are_stored(tmp_path: Path) -> None:
    # Augmented under random numbers that were drawn one step before the checkpoint.
    setting = Setting(loader="iterable", augment=EVERYTHING, save=("on_train_batch_end", 10), kill_at=12)
    with pytest.warns(UserWarning, match="draws random numbers of the training process while it iterates"):
        check_exact(setting, tmp_path)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("loader", ["plain", "stateful"])
def test_consumed_batches_need_not_be_loaded_again(loader: str, persistent: bool, tmp_path: Path) -> None:
    setting = Setting(
        loader=loader,
        workers=2,
        persistent=persistent,
        reload_consumed=False,
        save=("on_train_batch_end", 10),
        kill_at=12,
    )
    check_exact(setting, tmp_path)


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    save=st.integers(1, 20),
    accumulate=st.integers(1, 4),
    interval=st.sampled_from([1.0, 2, 3]),
    scheduler=st.sampled_from(["step", "epoch", "plateau"]),
)
def test_at_any_batch(
    save: int, accumulate: int, interval: float, scheduler: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    setting = Setting(
        augment=EVERYTHING,
        accumulate=accumulate,
        val_check_interval=interval,
        scheduler=scheduler,
        save=("on_train_batch_end", save),
        kill_at=min(save + 1, 20),
    )
    check_exact(setting, tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    ("save", "reason"),
    [
        (("on_train_batch_start", 10), "in the middle of a training step"),
        (("on_validation_batch_end", 3), "validation"),
    ],
)
def test_a_checkpoint_that_cannot_be_exact_says_so(save: tuple[str, int], reason: str, tmp_path: Path) -> None:
    setting = Setting(augment=("torch",), save=save, kill_at=15)
    with pytest.warns(UserWarning, match=re.escape(reason)):
        whole, resumed = interrupted(setting, tmp_path)
    assert resumed["progress"] == whole["progress"]
    begun = {number: ids for number, ids, _ in whole["seen"]}
    assert [(n, ids) for n, ids, _ in resumed["seen"] if n < 14] == [
        (n, begun[n]) for n in range(9, 14) if save[1] == 10
    ]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize(
    "case",
    [
        {"save": ("on_train_batch_end", 10), "kill_at": 12},
        {"save": ("on_train_epoch_end", 1), "kill_at": 12},
        {"save": ("on_train_batch_end", 10), "kill_at": 12, "augment": (), "dropout": 0.0, "workers": 2},
        {"save": ("on_train_batch_end", 11), "kill_at": 12, "accumulate": 3, "loader": "stateful"},
    ],
    ids=["mid-epoch", "epoch end", "data order alone", "gradients alone"],
)
def test_lightning_alone_does_not_resume_exactly(case: dict[str, Any], tmp_path: Path) -> None:
    whole, resumed = interrupted(Setting(exact=False, **case), tmp_path)
    found = differences_after_resume(whole, resumed)
    assert any(path.startswith("/weights") for path in found)
