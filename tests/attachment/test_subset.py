"""A subset of the training data is the same samples in every epoch, drawn in the way the loader draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from thunderstone import DataView, LossStep, Method, StepError, UnsupportedSettingError, hookimpl
from thunderstone.attachment.subset import Subset, chosen_samples

SAMPLES, CHOSEN = 23, 10
HINT = "use a plain loader"


class Numbered(Dataset[tuple[Tensor, int]]):
    """Every sample says which one it is."""

    def __init__(self, count: int = SAMPLES) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((3,), float(index)), index


class Net(LightningModule):
    """May ask for the number of steps while its optimizers are set up, as a module with a schedule does."""

    def __init__(self, asks: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.asks = asks
        self.estimated: float = -1

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return self.layer(batch[0]).square().mean() * 1e-3

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.asks:
            self.estimated = self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Few(Method):
    """Trains on a few samples and writes down what it is told about every batch, and what the batch says of itself."""

    name = "few"

    def __init__(self, samples: int = CHOSEN, seed: int = 0, indices_first: bool = False) -> None:
        self.samples, self.seed, self.indices_first = samples, seed, indices_first
        self.told: list[list[int]] = []
        self.seen: list[list[int]] = []
        self.epochs: list[list[int]] = []
        self.chosen: list[int] = []

    @hookimpl
    def prepare_data(self, view: DataView) -> None:
        if self.indices_first:
            view.track_indices("Few", HINT)
        self.chosen = view.subset("Few", self.samples, self.seed, HINT).chosen
        view.track_indices("Few", HINT)

    @hookimpl
    def loss_terms(self, step: LossStep) -> None:
        assert step.indices is not None
        self.told.append(step.indices.tolist())
        self.seen.append(torch.as_tensor(step.batch[1]).reshape(-1).tolist())

    def on_train_epoch_end(self, *_: Any) -> None:
        self.epochs.append([index for batch in self.seen[self._before :] for index in batch])
        self._before = len(self.seen)

    _before = 0


def trainer(*callbacks: Any, **settings: Any) -> Trainer:
    arguments: dict[str, Any] = {"max_epochs": 3, "logger": False, "enable_checkpointing": False} | settings
    return Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


def fit(loader: Any, few: Few | None = None, **settings: Any) -> Few:
    few = few or Few()
    trainer(few, **settings).fit(Net(), loader, ckpt_path=settings.get("ckpt_path"))
    return few


LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "in order": lambda: DataLoader(Numbered(), batch_size=4),
    "shuffled": lambda: DataLoader(Numbered(), batch_size=4, shuffle=True),
    "own generator": lambda: DataLoader(
        Numbered(), batch_size=4, sampler=RandomSampler(Numbered(), generator=torch.Generator().manual_seed(1))
    ),
    "two workers": lambda: DataLoader(Numbered(), batch_size=2, shuffle=True, num_workers=2),
    "persistent workers": lambda: DataLoader(
        Numbered(), batch_size=2, shuffle=True, num_workers=2, persistent_workers=True
    ),
    "no batching": lambda: DataLoader(Numbered(), batch_size=None, shuffle=True),
    "stateful": lambda: StatefulDataLoader(Numbered(), batch_size=4, shuffle=True),
    "some indices": lambda: DataLoader(Numbered(), batch_size=4, sampler=SubsetRandomSampler(range(1, SAMPLES, 2))),
}


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("indices_first", [False, True])
@pytest.mark.parametrize("name", LOADERS)
def test_every_epoch_is_the_chosen_samples_once(name: str, indices_first: bool) -> None:
    loader = LOADERS[name]()
    own = (loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
    few = fit(loader, Few(indices_first=indices_first))
    assert few.told == few.seen
    assert len(few.epochs) == 3
    assert [sorted(epoch) for epoch in few.epochs] == [few.chosen] * 3
    assert len(few.chosen) == CHOSEN
    if name == "some indices":
        assert all(index % 2 for index in few.chosen)
    assert (few.epochs[0] == few.chosen) == (name == "in order")
    # Shuffled anew in every epoch, and not in the order of the choice.
    assert (few.epochs[0] == few.epochs[1]) == (name == "in order")
    assert (loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)) == own
    assert len(loader) == len(LOADERS[name]())


def test_the_loader_is_as_long_as_the_choice() -> None:
    few, net = Few(), Net(asks=True)
    running = trainer(few, accumulate_grad_batches=2)
    running.fit(net, LOADERS["shuffled"]())
    assert running.num_training_batches == 3
    # Known when the optimizers were set up: two updates in each of three epochs.
    assert net.estimated == 6
    assert running.global_step == 6


def test_the_order_is_that_of_a_dataset_of_this_size() -> None:
    few = fit(DataLoader(Numbered(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(5)))
    generator = torch.Generator().manual_seed(5)
    whole = DataLoader(Numbered(CHOSEN), batch_size=4, shuffle=True, generator=generator)
    expected = [[few.chosen[int(position)] for batch in whole for position in batch[1]] for _ in range(3)]
    assert few.epochs == expected


@given(st.integers(1, 200), st.integers(1, 250), st.integers(0, 2**31))
def test_a_choice_is_distinct_sorted_and_the_seeds(population: int, count: int, seed: int) -> None:
    chosen = chosen_samples(range(population), count, seed)
    assert chosen == chosen_samples(range(population), count, seed)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, population)
    assert set(chosen) <= set(range(population))


def test_every_sample_is_chosen_about_equally_often() -> None:
    counts = Counter(index for seed in range(3000) for index in chosen_samples(range(SAMPLES), CHOSEN, seed))
    expected = 3000 * CHOSEN / SAMPLES
    assert all(abs(counts[index] - expected) < 5 * expected**0.5 for index in range(SAMPLES))


def test_another_seed_chooses_others() -> None:
    assert fit(LOADERS["in order"](), Few(seed=1)).chosen != fit(LOADERS["in order"](), Few(seed=2)).chosen


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("count", [7, 8, 9])
def test_replicas_share_the_choice(count: int, drop_last: bool) -> None:
    seen: list[list[int]] = []
    for rank in range(2):
        sampler = DistributedSampler(Numbered(), num_replicas=2, rank=rank, drop_last=drop_last)
        few = fit(DataLoader(Numbered(), batch_size=2, sampler=sampler), Few(samples=count))
        seen.append(few.epochs[1])
        chosen = few.chosen
        # `set_epoch` reaches the sampler: another order in every epoch.
        assert few.epochs[0] != few.epochs[1]
    reference = [
        [chosen[position] for position in _second_epoch(count, rank, drop_last)] for rank in range(2)
    ]  # fmt: skip
    assert seen == reference
    assert len(seen[0]) == len(seen[1])
    assert set(seen[0] + seen[1]) == set(chosen) or drop_last


def _second_epoch(count: int, rank: int, drop_last: bool) -> list[int]:
    sampler = DistributedSampler(range(count), num_replicas=2, rank=rank, drop_last=drop_last)  # type: ignore[arg-type]
    sampler.set_epoch(1)
    return list(sampler)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_within_an_epoch(tmp_path: Path, workers: int, asks: bool) -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(
            Numbered(), batch_size=2, shuffle=True, num_workers=workers, persistent_workers=workers > 0 and asks
        )

    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=7, save_top_k=-1)
    torch.manual_seed(3)
    whole, few = Few(), Few()
    trainer(whole, checkpoint, enable_checkpointing=True).fit(Net(asks), loader())
    saved = next(tmp_path.glob("*step=7.ckpt"))
    torch.manual_seed(4)
    trainer(few, checkpoint, enable_checkpointing=True).fit(Net(asks), loader(), ckpt_path=saved)
    assert len(whole.seen) == 15
    assert few.seen == whole.seen[7:]
    assert few.told == whole.told[7:]


def test_a_reloaded_loader_gets_the_same_choice() -> None:
    few = fit(LOADERS["shuffled"](), reload_dataloaders_every_n_epochs=1)
    assert [sorted(epoch) for epoch in few.epochs] == [few.chosen] * 3


def test_all_samples_where_there_are_no_more() -> None:
    few = fit(LOADERS["shuffled"](), Few(samples=1000))
    assert few.chosen == list(range(SAMPLES))


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.zeros(8, 3)


class Batches:
    def __iter__(self) -> Iterator[list[Tensor]]:
        yield from [[torch.zeros(4, 3), torch.arange(4)]] * 3


class Own(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(5))

    def __len__(self) -> int:
        return 5


class OwnBatches(BatchSampler):
    def __iter__(self) -> Iterator[list[int]]:
        yield from [[0, 1], [2]]


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda: DataLoader(Stream(), batch_size=4), r"an IterableDataset \(Stream\): a stream has no samples"),
        (Batches, "a training loader of type Batches: only a torch DataLoader"),
        (lambda: DataLoader(Numbered(), sampler=Own()), "a sampler of type Own: it decides itself"),
        (
            lambda: DataLoader(Numbered(), sampler=WeightedRandomSampler([1.0] * SAMPLES, 5)),
            "a sampler of type WeightedRandomSampler",
        ),
        (
            lambda: DataLoader(Numbered(), batch_sampler=OwnBatches(range(3), 2, False)),
            "a batch sampler of type OwnBatches: it makes up the batches itself",
        ),
        (lambda: DataLoader(Numbered(0), batch_size=4), r"an empty training dataset \(Numbered\): there is no sample"),
        (
            lambda: DataLoader(Numbered(), batch_size=CHOSEN + 1, drop_last=True),
            r"DataLoader\(drop_last=True\) and 10 samples in each process: they do not fill one batch of 11",
        ),
    ],
)
def test_refusals_name_the_method_and_leave_the_loader_alone(loader: Callable[[], Any], message: str) -> None:
    loader = loader()
    before = dict(vars(loader))
    with pytest.raises(UnsupportedSettingError, match=f"Few cannot run with {message}.*HINT"):
        Subset("Few", loader, CHOSEN, 0, HINT)
    assert vars(loader) == before


def test_a_second_subset_is_refused() -> None:
    view = DataView(trainer(), Net(), LOADERS["shuffled"]())
    view.subset("Few", 5, 0, HINT)
    with pytest.raises(StepError, match="Fewer: a subset of this training loader was taken already"):
        view.subset("Fewer", 3, 0, HINT)
