"""SAF against the paper's equation, its memory, and what it does with samples that have no past."""

from __future__ import annotations

import csv
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from thunderstone import ArgumentError, LossStep, StepError, UnsupportedSettingError, hookimpl
from thunderstone_sharpness import MESA, SAF, SAM
from thunderstone_sharpness.consistency import trajectory_loss
from thunderstone_sharpness.logits_memory import LogitsMemory


@given(
    st.integers(1, 5),
    st.integers(2, 4),
    st.floats(0.1, 20),
    st.integers(0, 10**6),
)
def test_trajectory_loss_is_the_divergence(batch: int, classes: int, temperature: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    past, present = torch.randn(2, batch, classes, generator=generator, dtype=torch.float64).unbind()
    p, q = (past / temperature).softmax(-1), (present / temperature).softmax(-1)
    expected = (p * (p.log() - q.log())).sum(-1).mean()
    torch.testing.assert_close(trajectory_loss(past, present, temperature), expected)
    assert trajectory_loss(past, present, temperature) >= -1e-12
    assert trajectory_loss(past, past, temperature).abs() < 1e-12


def test_trajectory_loss_along_another_dimension_and_in_half_precision() -> None:
    past, present = torch.randn(2, 2, 3, 4, 5).unbind()
    along_one = trajectory_loss(past, present, 2.0, class_dim=1)
    torch.testing.assert_close(along_one, trajectory_loss(past.movedim(1, -1), present.movedim(1, -1), 2.0))
    half = trajectory_loss(past.half(), present.bfloat16(), 2.0, class_dim=1)
    assert half.dtype == torch.float32
    assert abs(half - along_one) < 0.02


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_against_the_equation(classifier, fit, weights, dataset, dtype) -> None:
    """Equation 7 in a plain loop, with the epochs' logits in a list."""
    weight, temperature, back, start, rate, epochs = 0.9, 2.0, 2, 3, 0.2, 6
    data = dataset(torch.float64)
    method = SAF(weight, temperature, epochs_back=back, start_epoch=start, dtype=dtype)
    trained = fit(classifier(dtype=torch.float64), method, data=data, max_epochs=epochs)

    net = classifier(dtype=torch.float64).net
    kept: list[list[Tensor]] = []
    stored = getattr(torch, dtype)
    for epoch in range(epochs):
        kept.append([])
        for number, (x, y) in enumerate(DataLoader(data, batch_size=8)):
            logits = net(x)
            loss = nn.functional.cross_entropy(logits, y)
            kept[-1].append(logits.detach().to(stored))
            if epoch >= start:
                p = (kept[epoch - back][number].double() / temperature).softmax(-1)
                loss = loss + weight * (p * (p.log() - (logits / temperature).log_softmax(-1))).sum(-1).mean()
            net.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter -= rate * parameter.grad
    torch.testing.assert_close(weights(trained), weights(net), rtol=1e-9, atol=1e-11)


def test_weight_zero_changes_nothing(classifier, fit, weights) -> None:
    off = fit(classifier(), SAF(0, start_epoch=0, epochs_back=1), max_epochs=3)
    assert torch.equal(weights(off), weights(fit(classifier(), max_epochs=3)))


def test_the_default_acts_from_the_sixth_epoch_on(classifier, fit, weights) -> None:
    assert torch.equal(weights(fit(classifier(), SAF(), max_epochs=5)), weights(fit(classifier(), max_epochs=5)))
    assert not torch.equal(weights(fit(classifier(), SAF(), max_epochs=6)), weights(fit(classifier(), max_epochs=6)))


class Recorded(SAF):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.terms: list[tuple[int, float | None]] = []

    @property
    def arguments(self) -> dict[str, Any]:
        return {}

    @hookimpl
    def loss_terms(self, step: LossStep) -> dict[str, Tensor] | None:
        terms = super().loss_terms(step)
        self.terms.append((step.trainer.current_epoch, None if terms is None else terms["trajectory_loss"].item()))
        return terms


def test_samples_without_a_past_are_left_out(classifier, fit, dataset) -> None:
    """With replacement some samples of a batch were not drawn in the epoch before: no term counts them as zeros."""
    data = dataset()
    loader = DataLoader(data, batch_size=2, sampler=WeightedRandomSampler([1.0] * len(data), 10))
    method = Recorded(start_epoch=0, epochs_back=1, weight=1.0)
    fit(classifier(), method, data=loader, max_epochs=6)
    none, some = (
        [value for epoch, value in method.terms if (value is None) == wanted and epoch > 0] for wanted in (1, 0)
    )
    assert none
    assert some
    # Against a uniform target (zeros) the divergence would be of the size of log(classes); between epochs it is small.
    assert max(value for value in some if value is not None) < 0.1 * math.log(3)


@given(st.data())
def test_memory_gives_back_what_an_epoch_wrote(data: st.DataObject) -> None:
    samples, back = 6, data.draw(st.integers(1, 3))
    memory = LogitsMemory(back, torch.float32, torch.device("cpu"))
    memory.reserve(3, (2,))
    written: dict[tuple[int, int], Tensor] = {}
    for epoch in range(data.draw(st.integers(1, 8))):
        indices = torch.tensor(data.draw(st.lists(st.integers(0, samples - 1), min_size=1, max_size=4, unique=True)))
        known, past = memory.read(indices, epoch)
        expected = [i for i, index in enumerate(indices.tolist()) if (epoch - back, index) in written]
        assert known.tolist() == expected
        for position, values in zip(expected, past, strict=True):
            assert torch.equal(values, written[epoch - back, int(indices[position])])
        values = torch.randn(len(indices), 2)
        memory.write(indices, epoch, values)
        written.update({(epoch, int(index)): value for index, value in zip(indices, values, strict=True)})
        restored = LogitsMemory(back, torch.float32, torch.device("cpu"))
        restored.load_state_dict(memory.state_dict(epoch))
        memory = restored


def test_huge_logits_stay_finite_in_half_precision() -> None:
    memory = LogitsMemory(1, torch.float16, torch.device("cpu"))
    memory.reserve(2, (2,))
    memory.write(torch.tensor([0]), 0, torch.tensor([[1e6, -1e6]]))
    assert memory.read(torch.tensor([0]), 1)[1].tolist() == [[65504.0, -65504.0]]


def test_logits_that_overflowed_are_no_past() -> None:
    memory = LogitsMemory(1, torch.float16, torch.device("cpu"))
    memory.reserve(4, (2,))
    broken = torch.tensor([[1.0, 2.0], [math.nan, 2.0], [3.0, -math.inf]])
    memory.write(torch.tensor([2, 0, 1]), 0, broken)
    known, past = memory.read(torch.arange(4), 1)
    assert known.tolist() == [2]
    assert past.tolist() == [[1.0, 2.0]]


def test_the_memory_grows_with_the_dataset_and_can_be_forgotten() -> None:
    memory = LogitsMemory(1, torch.float32, torch.device("cpu"))
    memory.reserve(1, (2,))
    for index in range(9):
        memory.write(torch.tensor([index]), 0, torch.full((1, 2), float(index)))
    known, past = memory.read(torch.arange(40), 1)
    assert known.tolist() == list(range(9))
    assert past[:, 0].tolist() == list(range(9))
    memory.forget()
    assert memory.read(torch.arange(9), 1)[0].numel() == 0


def test_the_size_is_announced_with_the_first_batch(classifier, fit, caplog) -> None:
    """Long before the penalty begins, so that a memory that is too large does not end a run in its sixth epoch."""
    with caplog.at_level("INFO"):
        method = SAF()
        fit(classifier(), method, max_epochs=1, limit_train_batches=1)
    said = [record.message for record in caplog.records if "SAF remembers" in record.message]
    assert said == ["SAF remembers 24 samples x 3 logits x 4 epochs in float16: 0.0 MiB on cpu in every process."]
    kept = method.state_dict()
    # 24 x 3 x 4 numbers of two bytes; when each was written, in four; who wrote it, in four.
    assert sum(tensor.nbytes for tensor in kept.values()) == 24 * 3 * 4 * 2 + 24 * 4 * 4 + 24 * 4


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_overflow_leaves_no_trace_in_later_epochs(classifier, fit, weights, accumulate) -> None:
    """The scale is far too large: the first updates are skipped, and training goes on with finite weights."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    settings = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)], "accumulate_grad_batches": accumulate}
    start = weights(classifier())
    saf, mesa = SAF(start_epoch=1, epochs_back=1), MESA(start_epoch=1, decay=0.9)
    trained = weights(fit(classifier(), saf, mesa, max_epochs=20, **settings))
    assert scaler.get_scale() < 2.0**40
    assert trained.isfinite().all()
    assert not torch.equal(trained, start)
    assert all(value.isfinite().all() for value in mesa.average.values())


def test_a_second_fit_begins_with_no_past(classifier, fit, weights) -> None:
    method = SAF(start_epoch=1, epochs_back=1, weight=2.0)
    first = weights(fit(classifier(), method, max_epochs=3))
    assert torch.equal(weights(fit(classifier(), method, max_epochs=3)), first)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_the_memory_survives_a_checkpoint(classifier, fit, weights, tmp_path) -> None:
    settings = {"start_epoch": 1, "epochs_back": 1, "weight": 2.0}
    whole = SAF(**settings)
    straight = weights(fit(classifier(), whole, max_epochs=4))
    saving = ModelCheckpoint(tmp_path, save_last=True)
    fit(classifier(), SAF(**settings), saving, max_epochs=2, enable_checkpointing=True)
    again = SAF(**settings)
    resume = {"max_epochs": 4, "enable_checkpointing": True, "ckpt_path": tmp_path / "last.ckpt"}
    resumed = fit(classifier(), again, ModelCheckpoint(tmp_path, save_last=True), **resume)
    assert torch.equal(weights(resumed), straight)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


class Growing(Recorded):
    """Keeps which samples had a past, epoch by epoch."""

    def __init__(self, epochs_back: int = 1) -> None:
        super().__init__(start_epoch=1, epochs_back=epochs_back, weight=2.0)
        self.written: list[int] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        written = self.state_dict()["written"]
        self.written.append(int((written[trainer.current_epoch % 2] == trainer.current_epoch).sum()))


def test_a_dataset_that_grows_during_a_fit(classifier, fit, dataset) -> None:
    """A new loader for every epoch, over more samples each time: the new ones have no past at first."""
    sizes = [8, 12, 24]
    module, method = classifier(), Growing()
    module.train_dataloader = lambda: DataLoader(Subset(dataset(), range(sizes[module.current_epoch])), batch_size=4)
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[method],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
    )
    trainer.fit(module)
    assert method.written == sizes
    assert method.state_dict()["written"].shape == (2, 24)
    # Of the second epoch's three batches the last, of the third's six the last three have only new samples.
    assert [value is None for _, value in method.terms] == [True] * 2 + [False] * 2 + [True] + [False] * 3 + [True] * 3


def test_a_checkpoint_is_resumed_with_more_samples(classifier, fit, tmp_path, dataset) -> None:
    few = fit(classifier(), Growing(), data=Subset(dataset(), range(8)), max_epochs=1)
    few.trainer.save_checkpoint(tmp_path / "few.ckpt")
    method = Growing()
    settings = {"max_epochs": 2, "ckpt_path": tmp_path / "few.ckpt"}
    fit(classifier(), method, **settings)
    assert [value is None for _, value in method.terms] == [False, True, True]
    with pytest.raises(StepError, match="SAF: the checkpoint remembers 1 epochs, epochs_back=2"):
        fit(classifier(), Growing(epochs_back=2), **settings)


class Unsized(Dataset[Any]):
    """Tells no length: whoever draws from it knows."""

    def __getitem__(self, index: int) -> Any:
        return torch.full((4,), index / 10), index % 3


def test_a_dataset_that_tells_no_length(classifier, fit) -> None:
    method = SAF(start_epoch=1, epochs_back=1)
    fit(classifier(), method, data=DataLoader(Unsized(), batch_sampler=[[0, 1], [7, 3], [2, 5]]), max_epochs=3)
    assert (method.state_dict()["written"][0] == 2).nonzero().flatten().tolist() == [0, 1, 2, 3, 5, 7]


def test_a_dataset_shorter_than_a_batch(classifier, fit, weights) -> None:
    short = TensorDataset(torch.randn(3, 4), torch.tensor([0, 1, 2]))
    method = SAF(start_epoch=1, epochs_back=1, weight=2.0)
    fit(classifier(), method, data=short, max_epochs=3)
    assert method.state_dict()["written"].tolist() == [[2, 2, 2], [1, 1, 1]]
    # With drop_last there is no batch at all; Lightning says so and trains nothing.
    with pytest.warns(UserWarning, match="length of .* is zero"):
        untouched = fit(classifier(), method, data=DataLoader(short, batch_size=8, drop_last=True), max_epochs=2)
    assert torch.equal(weights(untouched), weights(classifier()))


class Single(LightningModule):
    """A binary classifier with one logit, with or without a dimension for it."""

    def __init__(self, squeezed: bool) -> None:
        super().__init__()
        self.net, self.squeezed = nn.Linear(4, 1), squeezed

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(-1) if self.squeezed else self.net(x)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return self(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("method", [SAF(start_epoch=0), MESA(start_epoch=0)])
@pytest.mark.parametrize(
    ("squeezed", "message"), [(False, r"shape \(8, 1\), a single class"), (True, r"shape \(8,\), and class_dim=-1")]
)
def test_one_logit_is_no_distribution(fit, method, squeezed, message) -> None:
    """Its softmax is 1, or runs over the batch: either would switch the method off without a word."""
    with pytest.raises(StepError, match=f"{type(method).__name__}: the captured output has {message}"):
        fit(Single(squeezed), method)


def test_with_sam_both_passes_see_the_same_past(classifier, fit, weights) -> None:
    """rho so small that the second pass is the first: the pair is SAF alone, up to the perturbation."""
    saf = {"start_epoch": 1, "epochs_back": 1, "weight": 2.0, "dtype": "float32"}
    alone = fit(classifier(dtype=torch.float64), SAF(**saf), max_epochs=4, data=None, precision="64-true")
    both = fit(classifier(dtype=torch.float64), SAF(**saf), SAM(1e-12), max_epochs=4, precision="64-true")
    torch.testing.assert_close(weights(both), weights(alone), rtol=1e-8, atol=1e-9)


class Tagger(LightningModule):
    """Token-level, with a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 5), nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        hidden = self.embed(tokens)
        return {"hidden": hidden, "logits": self.head(hidden)}

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0])["logits"].flatten(0, 1), batch[1].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


@pytest.mark.parametrize("output", [":logits", "head"])
def test_token_level_and_multi_output_modules(fit, weights, output) -> None:
    tokens = torch.randint(0, 7, (12, 4))
    data = TensorDataset(tokens, tokens % 3)
    method = SAF(start_epoch=1, epochs_back=1, output=output)
    torch.manual_seed(0)
    trained = fit(Tagger(), method, data=data, max_epochs=3)
    torch.manual_seed(0)
    assert not torch.equal(weights(trained), weights(fit(Tagger(), data=data, max_epochs=3)))
    assert method.state_dict()["logits"].shape == (2, 12, 4, 3)


class TwoHeads(LightningModule):
    """Two classifications from one body."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 2)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        hidden = self.body(batch[0]).tanh()
        first, second = self.first(hidden), self.second(hidden)
        return nn.functional.cross_entropy(first, batch[1]) + nn.functional.cross_entropy(second, batch[1] % 2)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("method", [partial(SAF, start_epoch=1, epochs_back=1), partial(MESA, start_epoch=1)])
def test_each_head_has_an_instance_of_its_own(fit, tmp_path, method) -> None:
    """Their terms are added, and reported under different names."""
    logger = CSVLogger(tmp_path)
    methods = [method(output="first"), method(output="second")]
    fit(TwoHeads(), *methods, logger=logger, log_every_n_steps=1, max_epochs=3)
    with open(Path(logger.log_dir) / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    name = methods[0].name
    terms = [[row.get(f"{name}/trajectory_loss/{head}", "") for row in rows] for head in ("first", "second")]
    assert [sum(map(bool, column)) for column in terms] == [6, 6]
    assert terms[0] != terms[1]
    assert f"{name}/trajectory_loss" not in rows[0]


def test_batches_from_several_loaders_have_no_known_samples(fit, dataset) -> None:
    class Both(TwoHeads):
        def training_step(self, batch: dict[str, list[Tensor]]) -> Tensor:
            return super().training_step(batch["one"])

    loaders = {name: DataLoader(dataset(), batch_size=8) for name in ("one", "two")}
    with pytest.raises((StepError, UnsupportedSettingError), match=r"SAF.*MESA, which"):
        fit(Both(), SAF(output="first"), data=CombinedLoader(loaders))


def test_a_changing_shape_is_an_error(fit) -> None:
    class Grows(Tagger):
        def forward(self, tokens: Tensor) -> dict[str, Tensor]:
            classes = 3 if self.trainer.current_epoch == 0 else 2
            return {"logits": self.head(self.embed(tokens))[..., :classes]}

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return self(batch[0])["logits"].square().mean()

    data = TensorDataset(torch.zeros(8, 4, dtype=torch.int64))
    with pytest.raises(StepError, match=r"shape \(4, 3\) a sample, and now got \(4, 2\)"):
        fit(Grows(), SAF(start_epoch=0, epochs_back=1, output=":logits"), data=data, max_epochs=2)


def test_a_dataset_without_indices_points_to_mesa(classifier, fit) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            yield from zip(torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64), strict=True)

    with pytest.raises(UnsupportedSettingError, match=r"SAF cannot run with an IterableDataset.*MESA"):
        fit(classifier(), SAF(start_epoch=0), data=DataLoader(Stream(), batch_size=4))


def test_an_output_that_is_not_a_batch(fit) -> None:
    class Pooled(Tagger):
        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.embed(tokens)).mean(dim=(0, 1))

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return self(batch[0]).square().mean()

    data = TensorDataset(torch.zeros(8, 4, dtype=torch.int64))
    with pytest.raises(StepError, match="3 rows for a batch of 8 samples"):
        fit(Pooled(), SAF(start_epoch=0), data=data)


@pytest.mark.parametrize(
    "bad",
    [
        {"weight": -1},
        {"temperature": 0},
        {"temperature": math.inf},
        {"epochs_back": 0},
        {"epochs_back": 1.5},
        {"start_epoch": -1},
        {"class_dim": 0},
        {"class_dim": "last"},
        {"dtype": "float8"},
        {"storage": "disk"},
    ],
    ids=str,
)
def test_bad_arguments(bad) -> None:
    (name,) = bad
    with pytest.raises(ArgumentError, match=f"SAF: {name}="):
        SAF(**bad)
