"""Every batch several times in a row: the same batches as without it, whatever draws, splits or loads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from thunderstone import DataView, LossStep, Method, StepError, UnsupportedSettingError, hookimpl

SAMPLES, TIMES = 11, 3
HINT = "leave it out"


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
        self.estimated: float = -1

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return self.layer(batch[0]).square().mean() * 1e-3

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.estimated = self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Repeating(Method):
    """Has batches repeated, and writes down what comes, epoch by epoch.

    Args:
        order: What is asked of the loader, one after the other: ``indices``, ``subset``, ``repeat``.
    """

    name = "repeating"

    def __init__(self, times: int = TIMES, order: tuple[str, ...] = ("repeat",)) -> None:
        self.times, self.order = times, order
        self.epochs: list[list[list[int]]] = []

    @hookimpl
    def prepare_data(self, view: DataView) -> None:
        for what in self.order:
            if what == "indices":
                view.track_indices("Repeating", HINT)
            elif what == "subset":
                view.subset("Repeating", 5, 0, HINT)
            else:
                view.repeat("Repeating", self.times, HINT)

    def on_train_epoch_start(self, *_: Any) -> None:
        self.epochs.append([])

    @hookimpl
    def loss_terms(self, step: LossStep) -> None:
        seen = torch.as_tensor(step.batch[1]).reshape(-1).tolist()
        assert ("indices" in self.order) == (step.indices is not None)
        assert step.indices is None or step.indices.tolist() == seen
        if not self.epochs:  # resumed within one
            self.epochs.append([])
        self.epochs[-1].append(seen)


def fit(loader: Any, repeating: Repeating | None = None, net: Net | None = None, **settings: Any) -> Trainer:
    callbacks = [repeating, *settings.pop("callbacks", [])] if repeating is not None else []
    checkpoint = settings.pop("ckpt_path", None)
    torch.manual_seed(3)
    arguments: dict[str, Any] = {"max_epochs": 2, "logger": False, "enable_checkpointing": False} | settings
    trainer = Trainer(
        accelerator="cpu", callbacks=callbacks, enable_progress_bar=False, enable_model_summary=False, **arguments
    )
    trainer.fit(net or Net(), loader, ckpt_path=checkpoint)
    return trainer


LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "in order": lambda: DataLoader(Numbered(), batch_size=4),
    "shuffled": lambda: DataLoader(Numbered(), batch_size=4, shuffle=True),
    "weighted": lambda: DataLoader(Numbered(), batch_size=2, sampler=WeightedRandomSampler([1.0] * SAMPLES, 7)),
    "two workers": lambda: DataLoader(Numbered(), batch_size=2, shuffle=True, num_workers=2),
    "persistent workers": lambda: DataLoader(
        Numbered(), batch_size=2, shuffle=True, num_workers=2, persistent_workers=True
    ),
    "no batching": lambda: DataLoader(Numbered(), batch_size=None, shuffle=True),
    "stateful": lambda: StatefulDataLoader(Numbered(), batch_size=4, shuffle=True),
}


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("name", LOADERS)
def test_each_batch_comes_several_times_in_a_row(name: str) -> None:
    once, repeated = Repeating(times=1), Repeating()
    torch.manual_seed(1)
    fit(LOADERS[name](), once)
    # torchdata's sampler draws its seed when it is made.
    torch.manual_seed(1)
    loader = LOADERS[name]()
    own = (loader.sampler, loader.batch_sampler)
    fit(loader, repeated)
    assert repeated.epochs == [[batch for batch in epoch for _ in range(TIMES)] for epoch in once.epochs]
    assert len(once.epochs) == 2
    assert (loader.sampler, loader.batch_sampler) == own
    assert len(loader) == len(LOADERS[name]())


@pytest.mark.parametrize("order", [("indices", "repeat"), ("repeat", "indices"), ("subset", "repeat", "indices"),
                                   ("indices", "repeat", "subset"), ("repeat", "indices", "subset")])  # fmt: skip
@pytest.mark.parametrize("name", ["shuffled", "no batching"])
def test_beside_tracked_indices_and_a_subset(name: str, order: tuple[str, ...]) -> None:
    repeated, loader = Repeating(order=order), LOADERS[name]()
    own = (loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
    fit(loader, repeated)
    for epoch in repeated.epochs:
        batches = epoch[::TIMES]
        assert epoch == [batch for batch in batches for _ in range(TIMES)]
        samples = [index for batch in batches for index in batch]
        assert len(samples) == len(set(samples)) == (5 if "subset" in order else SAMPLES)
    assert (loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)) == own


def test_the_length_is_that_of_all_copies() -> None:
    net = Net()
    trainer = fit(LOADERS["shuffled"](), Repeating(), net, accumulate_grad_batches=3)
    assert trainer.num_training_batches == 3 * TIMES
    # Known when the optimizers were set up.
    assert net.estimated == trainer.global_step == 2 * 3


def test_a_limited_epoch_ends_between_copies() -> None:
    repeated = Repeating()
    fit(LOADERS["in order"](), repeated, limit_train_batches=4)
    assert repeated.epochs == [[[0, 1, 2, 3]] * 3 + [[4, 5, 6, 7]]] * 2


def test_a_second_fit_and_a_reloaded_loader() -> None:
    loader, first, second = LOADERS["in order"](), Repeating(), Repeating()
    fit(loader, first)
    fit(loader, second, reload_dataloaders_every_n_epochs=1)
    assert first.epochs == second.epochs
    assert len(first.epochs[1]) == 3 * TIMES


@pytest.mark.parametrize("rank", [0, 1])
def test_each_replica_repeats_its_own_share(rank: int) -> None:
    def loader() -> DataLoader[Any]:
        sampler = DistributedSampler(Numbered(), num_replicas=2, rank=rank)
        return DataLoader(Numbered(), batch_size=2, sampler=sampler)

    once, repeated = Repeating(times=1), Repeating()
    fit(loader(), once)
    fit(loader(), repeated)
    # `set_epoch` reaches the sampler: another order in every epoch.
    assert once.epochs[0] != once.epochs[1]
    assert repeated.epochs == [[batch for batch in epoch for _ in range(TIMES)] for epoch in once.epochs]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("kind", ["in process", "persistent workers", "stateful"])
def test_resumed_between_two_copies(tmp_path: Path, kind: str) -> None:
    def loader() -> DataLoader[Any]:
        if kind == "stateful":
            return StatefulDataLoader(Numbered(), batch_size=4, shuffle=True)
        workers = {"num_workers": 2, "persistent_workers": True} if kind != "in process" else {}
        return DataLoader(Numbered(), batch_size=4, shuffle=True, **workers)  # type: ignore[arg-type]

    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=5, save_top_k=-1)
    whole, rest = Repeating(order=("indices", "repeat")), Repeating(order=("indices", "repeat"))
    fit(loader(), whole, callbacks=[checkpoint], enable_checkpointing=True)
    # The second copy of the second of three batches.
    saved = next(tmp_path.glob("*step=5.ckpt"))
    fit(loader(), rest, callbacks=[checkpoint], enable_checkpointing=True, ckpt_path=saved)
    seen, again = ([batch for epoch in one.epochs for batch in epoch] for one in (whole, rest))
    assert len(seen) == 2 * 3 * TIMES
    assert again == seen[5:]


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.zeros(8, 3)


class Batches:
    def __iter__(self) -> Iterator[list[Tensor]]:
        yield from [[torch.zeros(4, 3), torch.arange(4)]] * 3


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda: DataLoader(Stream(), batch_size=4), r"an IterableDataset \(Stream\): a stream hands out"),
        (Batches, "a training loader of type Batches: only a torch DataLoader"),
        (lambda: DataLoader(Numbered(), num_workers=2, in_order=False), r"DataLoader\(in_order=False\): batches arr"),
    ],
)
def test_refusals_name_the_method_and_leave_the_loader_alone(loader: Callable[[], Any], message: str) -> None:
    loader = loader()
    before = dict(vars(loader))
    view = DataView(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), Net(), loader)
    with pytest.raises(UnsupportedSettingError, match=rf"Repeating cannot run with {message}.*HINT"):
        view.repeat("Repeating", TIMES, HINT)
    view.release()
    assert vars(loader) == before
    # Once is as it is.
    view.repeat("Repeating", 1, HINT)
    assert vars(loader) == before


def test_a_second_repetition_is_refused() -> None:
    view = DataView(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), Net(), LOADERS["shuffled"]())
    view.repeat("Repeating", 2, HINT)
    with pytest.raises(StepError, match=r"Repeating: the batches of this training loader are repeated already.*HINT"):
        view.repeat("Repeating", 2, HINT)
