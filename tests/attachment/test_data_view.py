"""The sample indices of a batch are those of the batch, whatever delivers it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    WeightedRandomSampler,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from thunderstone import DataView, LossStep, Method, StepError, UnsupportedSettingError, hookimpl

SAMPLES = 23


class Numbered(Dataset[tuple[Tensor, int]]):
    """Every sample says which one it is."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((3,), float(index)), index


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return self.layer(batch[0]).square().mean() * 1e-3

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Witness(Method):
    """Writes down what it is told about every batch, and what the batch says of itself."""

    name = "witness"

    def __init__(self) -> None:
        self.told: list[list[int]] = []
        self.seen: list[list[int]] = []

    @property
    def arguments(self) -> dict[str, Any]:
        return {}

    @hookimpl
    def prepare_data(self, view: DataView) -> None:
        view.track_indices("Witness", "train on a map-style dataset")

    @hookimpl
    def loss_terms(self, step: LossStep) -> None:
        assert step.indices is not None
        self.told.append(step.indices.tolist())
        self.seen.append(torch.as_tensor(step.batch[1]).reshape(-1).tolist())


def fit(loader: Any, **settings: Any) -> Witness:
    witness = Witness()
    arguments: dict[str, Any] = {"max_epochs": 3, "logger": False, "enable_checkpointing": False} | settings
    callbacks = [witness, *arguments.pop("callbacks", [])]
    trainer = Trainer(
        accelerator="cpu", callbacks=callbacks, enable_progress_bar=False, enable_model_summary=False, **arguments
    )
    trainer.fit(Net(), loader, ckpt_path=arguments.get("ckpt_path"))
    return witness


class Backwards(BatchSampler):
    """A batch sampler of one's own, with batches of changing size."""

    def __init__(self) -> None:
        super().__init__(range(SAMPLES), 1, False)

    def __iter__(self) -> Iterator[list[int]]:
        left = list(range(SAMPLES))[::-1]
        size = 1
        while left:
            yield left[:size]
            left, size = left[size:], size % 4 + 1

    def __len__(self) -> int:
        return sum(1 for _ in self)


LOADERS = {
    "in order": lambda: DataLoader(Numbered(), batch_size=4),
    "shuffled": lambda: DataLoader(Numbered(), batch_size=4, shuffle=True),
    "drop_last": lambda: DataLoader(Numbered(), batch_size=4, shuffle=True, drop_last=True),
    "two workers": lambda: DataLoader(Numbered(), batch_size=2, shuffle=True, num_workers=2),
    "persistent workers": lambda: DataLoader(
        Numbered(), batch_size=2, shuffle=True, num_workers=2, persistent_workers=True, prefetch_factor=4
    ),
    "with replacement": lambda: DataLoader(
        Numbered(), batch_size=4, sampler=WeightedRandomSampler([1.0] * SAMPLES, 30)
    ),
    "distributed sampler": lambda: DataLoader(
        Numbered(), batch_size=4, sampler=DistributedSampler(Numbered(), num_replicas=2, rank=1)
    ),
    "batch sampler": lambda: DataLoader(Numbered(), batch_sampler=Backwards()),
    "no batching": lambda: DataLoader(Numbered(), batch_size=None, shuffle=True),
    "stateful": lambda: StatefulDataLoader(Numbered(), batch_size=4, shuffle=True, num_workers=0),
}


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("name", LOADERS)
def test_indices_are_those_of_the_batch(name: str) -> None:
    witness = fit(LOADERS[name]())
    assert len(witness.seen) >= 9
    assert witness.told == witness.seen


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize(
    "settings",
    [
        {"limit_train_batches": 3},
        {"limit_train_batches": 0.5},
        {"accumulate_grad_batches": 3},
        {"overfit_batches": 2},
        {"reload_dataloaders_every_n_epochs": 1},
    ],
    ids=str,
)
def test_indices_under_trainer_settings(settings: dict[str, Any]) -> None:
    witness = fit(DataLoader(Numbered(), batch_size=2, shuffle=True, num_workers=2), **settings)
    assert witness.told == witness.seen


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("exact", [True, False])
def test_indices_after_resuming_within_an_epoch(tmp_path: Path, workers: int, exact: bool) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    from thunderstone import ExactResume

    def loader() -> DataLoader[Any]:
        return DataLoader(Numbered(), batch_size=2, shuffle=True, num_workers=workers)

    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=5, save_top_k=-1)
    resume = [] if exact else [ExactResume(enabled=False)]
    fit(loader(), max_epochs=1, enable_checkpointing=True, callbacks=[checkpoint, *resume])
    saved = next(tmp_path.glob("*step=5.ckpt"))
    witness = Witness()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[witness, checkpoint, *resume],
    )
    if exact:
        trainer.fit(Net(), loader(), ckpt_path=saved)
    else:
        with pytest.warns(UserWarning, match="not resumable"):
            trainer.fit(Net(), loader(), ckpt_path=saved)
    assert witness.seen
    assert witness.told == witness.seen


def test_the_loader_gets_its_sampler_back() -> None:
    loader = DataLoader(Numbered(), batch_size=4, shuffle=True)
    sampler = loader.batch_sampler
    fit(loader)
    assert loader.batch_sampler is sampler
    assert fit(loader).told


def test_an_iterable_dataset_is_refused_with_the_way_out() -> None:
    class Stream(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            yield from torch.zeros(8, 3)

    with pytest.raises(
        UnsupportedSettingError, match=r"Witness cannot run with an IterableDataset \(Stream\).*map-style"
    ):
        fit(DataLoader(Stream(), batch_size=4))


def test_a_loader_that_is_none_is_refused() -> None:
    class Batches:
        def __iter__(self) -> Iterator[list[Tensor]]:
            yield from [[torch.zeros(4, 3), torch.arange(4)]] * 3

    with pytest.raises(UnsupportedSettingError, match="a training loader of type Batches"):
        fit(Batches())


def test_a_sampler_of_other_things_than_indices() -> None:
    class Pairs(Dataset[Any]):
        def __getitem__(self, key: tuple[str, int]) -> tuple[Tensor, int]:
            return torch.zeros(3), key[1]

    loader = DataLoader(Pairs(), batch_sampler=[[("a", 0), ("a", 1)]])
    with pytest.raises(StepError, match=r"^Witness: .* did not yield integer indices"):
        fit(loader)
