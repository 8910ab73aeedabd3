"""What the first-party methods show: each phase of work of known length is gone through to its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from thunderstone import Method, Phase
from thunderstone_estimators import SVRG, GradientVariance
from thunderstone_grpo import GRPO
from thunderstone_hyperfitting import Hyperfit
from thunderstone_pruning import IMP, SNIP, GraNet, RandomSearch, StructuredPruning
from thunderstone_sharpness import SharpnessMonitor

LETTERS = 8


class Classifier(LightningModule):
    """Three classes of vectors; 24 of them are six batches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Speaker(LightningModule):
    """The next letter by the present one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(LETTERS, LETTERS)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.table(ids)
        return logits

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0])[:, :-1].flatten(0, 1), batch[0][:, 1:].flatten())

    def validation_step(self, batch: list[Tensor]) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Stream(IterableDataset[Any]):
    """Of a length nobody knows."""

    def __iter__(self) -> Iterator[Any]:
        return iter(examples())


def examples() -> TensorDataset:
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def texts() -> DataLoader[Any]:
    ids = torch.randint(LETTERS, (6, 10), generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(ids), batch_size=2)


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> list[Phase]:
    """Every phase that a method begins."""
    begun: list[Phase] = []
    own = Method.progress

    def noted(self: Method, what: str, total: float | None = None) -> Phase:
        begun.append(own(self, what, total))
        return begun[-1]

    monkeypatch.setattr(Method, "progress", noted)
    return begun


@pytest.fixture
def statuses(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Everything that is shown in the bar."""
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(Method, "status", lambda self, **values: shown.append(values))
    return shown


def fit(method: Method, module: LightningModule | None = None, data: Any = None, **settings: Any) -> None:
    trainer = Trainer(
        callbacks=[method],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        **{"max_epochs": 1, **settings},
    )
    trainer.fit(module or Classifier(), *([DataLoader(examples(), batch_size=4)] if data is None else data))


def told(phases: list[Phase]) -> list[tuple[str, float | None]]:
    """Names and lengths, after a look at whether each was gone through."""
    assert all(phase.done == pytest.approx(phase.total) for phase in phases if phase.total is not None)
    return [(phase.what, phase.total) for phase in phases]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (SVRG(), [("SVRG: full gradient", 6)]),
        (GradientVariance(every_n_steps=6, draws=4), [("GradientVariance: gradients", 4)]),
        (GradientVariance(every_n_steps=6, draws=40), [("GradientVariance: gradients", 6)]),
        (SNIP(0.5, batches=3), [("SNIP: gradients", 3)]),
        (SNIP(0.5, batches=30), [("SNIP: gradients", 6)]),
        (RandomSearch(0.5, candidates=5), [("RandomSearch: candidates", 5)]),
    ],
    ids=repr,
)
def test_further_passes(method: Method, expected: list[tuple[str, int]], phases: list[Phase]) -> None:
    fit(method)
    assert told(phases) == expected


def test_a_pass_over_a_stream_has_no_length(phases: list[Phase]) -> None:
    fit(SVRG(coefficient="fixed"), data=[DataLoader(Stream(), batch_size=4)])
    assert told(phases) == [("SVRG: full gradient", None)]
    assert phases[0].done == 6


def test_measures_of_sharpness(phases: list[Phase]) -> None:
    # Three batches of eight: as often as the measures themselves say that they ask for the loss.
    fit(SharpnessMonitor(examples=24, batch_size=8, draws=2, probes=2, steps=3, points=3))
    assert told(phases) == [
        ("SharpnessMonitor: loss", 3),
        ("SharpnessMonitor: landscape", 3 * (3 + 1)),
        ("SharpnessMonitor: average_sharpness", 3 * (2 * 2 + 1)),
        ("SharpnessMonitor: worst_case_sharpness", 3 * (3 + 2)),
        ("SharpnessMonitor: hessian_trace", 3 * 2),
        ("SharpnessMonitor: hessian_eigenvalues", None),
        ("SharpnessMonitor: eigen_landscape", 3 * (3 + 1)),
    ]
    assert phases[5].done > 0


def test_texts_of_hyperfitting(phases: list[Phase]) -> None:
    loader = texts()
    method = Hyperfit(samples=4, contexts=5, context_length=4, max_new_tokens=3, max_epochs=1)
    with pytest.warns(UserWarning, match="not below the target"):
        fit(method, Speaker(), [loader, loader])
    one = [("Hyperfit: predictions", 5), ("Hyperfit: continuations", 3)]
    assert told(phases) == 2 * one


def test_rollouts(phases: list[Phase]) -> None:
    def long(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(sum(ids)) for ids in completion_ids]

    fit(GRPO(long, group_size=3, max_new_tokens=5, stop_tokens=[0]), Speaker(), [texts(), texts()])
    assert told(phases) == 3 * [("GRPO: 6 completions", 5), ("GRPO: rewards", None)]


def test_rollouts_that_are_scored_before_the_updates(phases: list[Phase]) -> None:
    def every_second(completions: list[Any], **_: Any) -> list[float]:
        return [float(place % 2) for place, _ in enumerate(completions)]

    method = GRPO(every_second, group_size=2, max_new_tokens=3, stop_tokens=[], minibatches=2)
    fit(method, Speaker(), [texts(), texts()], limit_train_batches=2)
    assert told(phases) == [
        ("GRPO: 4 completions", 3),
        ("GRPO: rewards", None),
        ("GRPO: log-probabilities", 2),
    ]


def test_sparsity_of_masks_and_of_rounds(statuses: list[dict[str, Any]]) -> None:
    fit(IMP(rounds=2, fraction=0.5, tickets=None))
    sparsities = [values["sparsity"] for values in statuses]
    # At the beginning of each round, and when masks are put in force.
    assert sparsities == [None, *[pytest.approx(0.5)] * 2, *[pytest.approx(0.75)] * 2]


def test_sparsity_while_it_grows(statuses: list[dict[str, Any]]) -> None:
    fit(GraNet(density=0.25, interval=1), max_epochs=3)
    sparsities = [values["sparsity"] for values in statuses if values["sparsity"] is not None]
    assert len(set(sparsities)) > 2
    assert sparsities[-1] == pytest.approx(0.75, abs=0.02)


def test_sparsity_where_channels_are_removed(statuses: list[dict[str, Any]]) -> None:
    module = Classifier()
    before = sum(parameter.numel() for parameter in module.parameters())
    fit(StructuredPruning(ratio=0.5, structure=None), module)
    after = sum(parameter.numel() for parameter in module.parameters())
    assert after < before
    assert statuses[-1]["sparsity"] == pytest.approx(1 - after / before)


def test_the_number_of_rounds_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    class Noting(IMP):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            super().on_train_start(trainer, pl_module)
            found.append((self.attachment.rounds.index, self.attachment.rounds.last))

    fit(Noting(rounds=1, tickets=None))
    assert found == [(0, 1), (1, 1)]
