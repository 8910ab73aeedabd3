"""Another pass over the training data: the batches of an epoch, and training goes on as if there had been none."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from tiny_training import Classifier, fit, loader, samples, state
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from thunderstone import DataView, Method, StepError, UnsupportedSettingError, hookimpl
from thunderstone.isolation import DrawnBatch, training_pass


class Another(Callback):
    """Makes a further pass in the middle of an epoch, and keeps the batches."""

    def __init__(self, at: int = 2, only: int | None = None) -> None:
        self.at, self.only = at, only
        self.batches: list[DrawnBatch] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.at:
            with training_pass("Another", trainer, pl_module, occasion=trainer.global_step) as batches:
                for drawn in batches:
                    self.batches.append(drawn)
                    torch.rand(1)
                    if len(self.batches) == self.only:
                        break


class Seen(Callback):
    """Keeps the batches of training and the random numbers drawn beside them."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.drawn: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)
        self.drawn += [float(torch.rand(1)), random.random(), float(np.random.rand())]


class Augmented(Dataset[Any]):
    """Noise from every kind of generator, one of its own among them; counts what it is asked for."""

    def __init__(self) -> None:
        self.rows = samples()
        self.generator = torch.Generator().manual_seed(5)
        self.asked = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        self.asked += 1
        x, y = self.rows[index]
        return x + random.random() + torch.rand(1, generator=self.generator) + float(np.random.rand()), y


@pytest.mark.parametrize("only", [None, 2])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("persistent", [False, True])
def test_training_goes_on_as_if_there_had_been_none(only: int | None, workers: int, persistent: bool) -> None:
    """Shuffled and augmented: the same batches, the same random numbers, the same weights."""
    if persistent and not workers:
        pytest.skip("no workers to persist")
    runs = []
    for callbacks in ([], [Another(only=only)]):
        random.seed(3)
        np.random.seed(3)
        module, seen, data = Classifier(), Seen(), Augmented()
        batches = DataLoader(
            data,
            batch_size=4,
            shuffle=True,
            num_workers=workers,
            persistent_workers=persistent,
            multiprocessing_context="fork" if workers else None,
        )
        fit(module, *callbacks, seen, data=batches, max_epochs=2)
        runs.append((seen, state(module), data.asked))
    (plain, weights, asked), (seen, other_weights, other_asked) = runs
    assert plain.drawn == seen.drawn
    assert asked == other_asked
    for one, other in zip(plain.batches, seen.batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def test_it_is_another_epoch_of_the_same_samples() -> None:
    another, seen = Another(), Seen()
    fit(Classifier(), another, seen, data=DataLoader(samples(), batch_size=4, shuffle=True))

    def rows(batches: list[Any]) -> list[list[float]]:
        return torch.cat([x for x, _ in batches]).tolist()

    found = rows([drawn.batch for drawn in another.batches])
    assert sorted(found) == sorted(rows(seen.batches))
    assert found != rows(seen.batches)
    assert [drawn.number for drawn in another.batches] == list(range(6))
    assert all(drawn.indices is None for drawn in another.batches)
    again = Another()
    fit(Classifier(), again, data=DataLoader(samples(), batch_size=4, shuffle=True))
    assert rows([drawn.batch for drawn in again.batches]) == found


def test_it_is_as_long_as_an_epoch() -> None:
    another = Another()
    fit(Classifier(), another, limit_train_batches=4)
    assert len(another.batches) == 4


def test_what_is_drawn_differs_from_batch_to_batch() -> None:
    class Drawing(Another):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 2:
                with training_pass("Drawing", trainer, pl_module, trainer.current_epoch) as batches:
                    self.numbers = [float(torch.rand(1)) for _ in batches]

    drawing = Drawing()
    fit(Classifier(), drawing)
    assert len(set(drawing.numbers)) == 6


class Tracking(Method):
    """Has indices tracked and keeps them."""

    name = "tracking"

    def __init__(self) -> None:
        self._seen: list[list[int]] = []

    @hookimpl
    def prepare_data(self, view: DataView) -> None:
        view.track_indices("Tracking", "leave it out")
        self._view = view

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        indices = self._view.current_indices()
        assert indices is not None
        self._seen.append(indices.tolist())


def test_indices_are_known_where_they_are_tracked() -> None:
    """Those of the pass and, all along, those of training."""
    tracking, another, seen = Tracking(), Another(), Seen()
    fit(Classifier(), tracking, another, seen, data=DataLoader(samples(), batch_size=4, shuffle=True))
    x = samples().tensors[0]
    for drawn in another.batches:
        assert torch.equal(x[drawn.indices], drawn.batch[0])
    for indices, batch in zip(tracking._seen, seen.batches, strict=True):
        assert torch.equal(x[indices], batch[0])


def test_several_loaders_are_combined_as_in_training() -> None:
    class Two(Classifier):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch["a"]) + super().loss(batch["b"])

    another, seen = Another(), Seen()
    fit(Two(), another, seen, data={"a": loader(), "b": loader(count=16, seed=1)})
    assert len(another.batches) == len(seen.batches)
    for drawn, batch in zip(another.batches, seen.batches, strict=True):
        for name in ("a", "b"):
            assert all(torch.equal(one, other) for one, other in zip(drawn.batch[name], batch[name], strict=True))


def test_batches_go_through_the_users_transfer_hooks() -> None:
    class Module(Classifier):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [batch[0] * 2, batch[1]]

    class Data(LightningDataModule):
        def train_dataloader(self) -> DataLoader[Any]:
            return loader()

        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [batch[0] + 1, batch[1]]

    another, seen = Another(), Seen()
    fit(Module(), another, seen)
    assert torch.equal(another.batches[0].batch[0], seen.batches[0][0])
    another, seen = Another(), Seen()
    fit(Classifier(), another, seen, data=Data())
    assert torch.equal(another.batches[0].batch[0], seen.batches[0][0])
    assert torch.equal(seen.batches[0][0], samples().tensors[0][:4] + 1)


# -- streams -----------------------------------------------------------------------------------------------------------


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        rows = samples()
        for number in range(len(rows)):
            yield rows[number]


class Once(Stream):
    """Hands out the one iterator it has."""

    def __init__(self) -> None:
        self.source = super().__iter__()

    def __iter__(self) -> Iterator[Any]:
        return self.source


class Rewinding(Stream):
    """Is its own iterator, and begins anew when it is asked for one."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Any:
        self.position = 0
        return self

    def __next__(self) -> Any:
        if self.position == 24:
            raise StopIteration
        self.position += 1
        return samples()[self.position - 1]


class Batches:
    """No DataLoader: an iterable of batches, again and again or once."""

    def __init__(self, once: bool) -> None:
        self.source = iter(list(loader())) if once else None

    def __iter__(self) -> Iterator[Any]:
        return iter(loader()) if self.source is None else self.source


@pytest.mark.parametrize("data", [DataLoader(Stream(), batch_size=4), Batches(once=False)], ids=["stream", "iterable"])
def test_a_stream_is_gone_over_from_its_beginning(data: Any) -> None:
    another, seen = Another(), Seen()
    fit(Classifier(), another, seen, data=data)
    assert len(another.batches) == len(seen.batches) == 6
    for drawn, batch in zip(another.batches, seen.batches, strict=True):
        assert torch.equal(drawn.batch[0], batch[0])


@pytest.mark.parametrize(
    "data",
    [DataLoader(Once(), batch_size=4), DataLoader(Rewinding(), batch_size=4), Batches(once=True)],
    ids=["once", "rewinding", "iterable"],
)
def test_a_stream_that_can_be_read_only_once_is_refused(data: Any) -> None:
    """And not one sample of it is lost by asking."""

    class Asking(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            with (
                pytest.raises(UnsupportedSettingError, match=r"Asking cannot run with a training stream .*HINT"),
                training_pass("Asking", trainer, pl_module),
            ):
                pass

    seen = Seen()
    fit(Classifier(), Asking(), seen, data=data)
    assert torch.equal(torch.cat([x for x, _ in seen.batches]), samples().tensors[0])


def test_there_must_be_a_loader() -> None:
    class Early(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            with training_pass("Early", trainer, pl_module):
                pass

    with pytest.raises(StepError, match=r"Early: there is no training loader yet.*HINT"):
        fit(Classifier(), Early())
