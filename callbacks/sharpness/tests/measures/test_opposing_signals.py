"""OpposingSignals: the pure function, per-example losses, and the method in real fits."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from thunderstone import ArgumentError
from thunderstone_sharpness import OpposingSignals, opposing_signals
from thunderstone_sharpness.measures import MeasureError, opposing_groups
from thunderstone_sharpness.measures.per_example import per_example_losses


def test_groups_are_the_tails() -> None:
    changes = torch.tensor([0.1, -0.2, 5.0, 0.0, -7.0, 3.0, -4.0, 0.2, float("nan"), float("inf")])
    groups = opposing_groups(changes, fraction=0.2)
    assert groups.rising.tolist() == [2, 5]
    assert groups.falling.tolist() == [4, 6]
    assert (groups.rise, groups.fall, groups.strength) == (4.0, -5.5, 4.0)


def test_examples_that_do_not_move_are_in_no_group() -> None:
    groups = opposing_groups(torch.tensor([1.0, 0.0, 0.0, 0.0]), fraction=0.5)
    assert groups.rising.tolist() == [0]
    assert groups.falling.tolist() == []
    assert groups.strength == 0.0


def test_bad_groups_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"changes=\(2, 2\)"):
        opposing_groups(torch.zeros(2, 2))
    with pytest.raises(ArgumentError, match=r"changes=\(0,\)"):
        opposing_groups(torch.zeros(0))
    with pytest.raises(ArgumentError, match=r"fraction=0\.6"):
        opposing_groups(torch.zeros(4), fraction=0.6)


LOSSES = {
    "cross entropy": (lambda m, x, y: F.cross_entropy(m(x), y), 1),
    "as a module": (lambda m, x, y: nn.CrossEntropyLoss(label_smoothing=0.1)(m(x), y), 1),
    "positional reduction": (lambda m, x, y: F.l1_loss(m(x), F.one_hot(y, 3).float(), None, None, "mean"), 1),
    "several outputs": (lambda m, x, y: F.mse_loss(m(x), F.one_hot(y, 3).float()), 1),
    "own mean": (lambda m, x, y: F.cross_entropy(m(x), y, reduction="none").mean(), 1),
    "not torch's": (lambda m, x, y: -m(x).log_softmax(-1)[range(len(y)), y].mean(), 7),
    "two terms": (lambda m, x, y: F.cross_entropy(m(x), y) + 0.1 * F.mse_loss(m(x), F.one_hot(y, 3).float()), 7),
}


@pytest.mark.parametrize(("loss", "passes"), LOSSES.values(), ids=LOSSES.keys())
def test_per_example_losses_are_those_of_single_examples(loss: Any, passes: int) -> None:
    torch.manual_seed(0)
    module, x, y = nn.Linear(4, 3), torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])
    expected = torch.stack([loss(module, x[i : i + 1], y[i : i + 1]).detach() for i in range(6)])
    calls = 0

    def counted(owner: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        return loss(owner, batch["x"], batch["y"])

    found = per_example_losses(counted, module, {"x": x, "y": y, "scale": torch.tensor(1.0)})
    torch.testing.assert_close(found, expected)
    # One pass where the reduction can be taken apart; otherwise that one and one for each example.
    assert calls == passes
    assert not found.requires_grad


def test_per_example_losses_cut_lists_too() -> None:
    module, texts = nn.Linear(1, 1), ["a", "bb", "cccc"]

    def lengths(owner: nn.Module, batch: Any) -> Tensor:
        return torch.tensor([float(len(text)) for text in batch[1]]).mean() * owner.weight.new_ones(())

    found = per_example_losses(lengths, module, (torch.zeros(3, 1), texts))
    assert found.tolist() == [1.0, 2.0, 4.0]
    with pytest.raises(MeasureError, match="the loss is a tensor of shape"):
        per_example_losses(lambda m, b: b[0], module, (torch.zeros(3, 1), texts))


class Logistic(LightningModule):
    """Full-batch gradient descent at a rate at which one strong feature makes it oscillate."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 2, bias=False)

    def training_step(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=2.0)


def opposing_data() -> TensorDataset:
    """Examples 3 to 7 and 20 to 24 share a strong feature and have different labels; the others are mild."""
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.randn(100, 6, generator=generator)
    y = (x[:, 1] > 0).long()
    for rows, label in ((slice(3, 8), 0), (slice(20, 25), 1)):
        x[rows, 0] = 6.0
        y[rows] = label
    return TensorDataset(x, y)


def test_planted_groups_are_found(training: Any) -> None:
    method = OpposingSignals(examples=100, every_n_steps=1, fraction=0.05)
    listening = training.Listening(method)
    loader = DataLoader(opposing_data(), batch_size=100)
    training.train(method, listening, module=Logistic(), data=loader, max_epochs=12, log_every_n_steps=1)
    observer = listening.observer
    table = observer.named("opposing_signals/groups")[-1].value
    members = {name: {row[1] for row in table.rows if row[0] == name} for name in ("rising", "falling")}
    planted = {frozenset(range(3, 8)), frozenset(range(20, 25))}
    assert {frozenset(members["rising"]), frozenset(members["falling"])} == planted
    for _, _, change, before, after in table.rows:
        assert change == pytest.approx(after - before)
    sizes = {row[0]: row for row in observer.named("opposing_signals/sizes")[-1].value.rows}
    assert (sizes["rising"][2], sizes["falling"][2]) == (5, 5)
    assert sizes["rising"][3] > 0.1 > -0.1 > sizes["falling"][3]
    strengths = [record.value for record in observer.named("opposing_signals/strength")]
    assert len(strengths) == 12
    assert sizes["rising"][1] == strengths.index(max(strengths))
    figure = observer.named("opposing_signals/losses")[-1].value
    assert isinstance(figure, Figure)
    curves = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    rising, falling = curves["rising group (5)"], curves["falling group (5)"]
    assert len(rising) == 13
    # From one step to the next, the two groups move against each other.
    against = [(rising[i + 1] - rising[i]) * (falling[i + 1] - falling[i]) < 0 for i in range(12)]
    assert sum(against) >= 10


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}], ids=str)
@pytest.mark.parametrize("streamed", [False, True])
def test_training_is_the_same_with_and_without_it(training: Any, settings: Any, streamed: bool) -> None:
    data = training.Streamed() if streamed else None
    plain = training.train(data=data, **settings)
    method = OpposingSignals(examples=24, batch_size=7, every_n_steps=2, fraction=0.1)
    listening = training.Listening(method)
    assert training.same(plain, training.train(method, listening, data=data, **settings))
    assert len(listening.observer.named("opposing_signals/strength")) >= 1
    assert len(listening.observer.named("opposing_signals/groups")) == 1


def test_every_nth_update_is_looked_at_before_and_after(training: Any) -> None:
    method = OpposingSignals(examples=8, every_n_steps=4, losses="each")
    kept = KeepState(method)
    training.train(method, kept)
    assert kept.steps == [2, 3, 6, 7, 10, 11, 14, 15]
    method = OpposingSignals(examples=8, every_n_steps=2, losses="each")
    kept = KeepState(method)
    training.train(method, kept, accumulate_grad_batches=2)  # Three updates an epoch, one of them of a single batch.
    assert kept.steps == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


class KeepState(Callback):
    def __init__(self, method: OpposingSignals) -> None:
        self.method = method
        self.steps: list[int] = []

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.steps = list(self.method.state_dict()["steps"])


def test_latest_losses_are_not_taken_twice(training: Any) -> None:
    calls = 0

    def counted(module: Any, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return module.each(batch)

    training.train(OpposingSignals(examples=8, every_n_steps=1, losses=counted), max_epochs=1)
    assert calls == 6  # Five updates, and the moment before the first.


def test_state_goes_through_a_checkpoint(training: Any, tmp_path: Path) -> None:
    class Saving(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 1 and batch_idx == 2:  # In the middle of an update.
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    make = {"examples": 24, "every_n_steps": 2, "fraction": 0.1, "dataset": training.Augmented()}
    settings = {"accumulate_grad_batches": 2, "data": training.Streamed()}
    whole, resumed = OpposingSignals(**make), OpposingSignals(**make)
    one, two = KeepAll(whole), KeepAll(resumed)
    training.train(whole, one, Saving(), **settings)
    saved = torch.load(tmp_path / "middle.ckpt", weights_only=True)["callbacks"][whole.state_key]
    assert saved["pending"] is not None
    resumed.load_state_dict(saved)
    assert torch.equal(resumed.state_dict()["history"], saved["history"])
    training.train(resumed, two, ckpt_path=tmp_path / "middle.ckpt", **settings)
    assert two.state["steps"] == one.state["steps"]
    assert torch.equal(two.state["history"][: len(saved["history"])], saved["history"])
    assert two.state["history"].shape == one.state["history"].shape


class KeepAll(Callback):
    def __init__(self, method: OpposingSignals) -> None:
        self.method = method
        self.state: dict[str, Any] = {}

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.state = self.method.state_dict()


def test_long_runs_keep_a_bounded_history(training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opposing_signals, "_MOMENTS", 6)
    method = OpposingSignals(examples=8, every_n_steps=1, losses="each")
    kept = KeepAll(method)
    training.train(method, kept)
    assert len(kept.state["steps"]) <= 7
    assert kept.state["steps"][0] == 0
    assert kept.state["steps"] == sorted(kept.state["steps"])
    assert len(kept.state["history"]) == len(kept.state["steps"])


def test_losses_of_the_wrong_shape_are_refused(training: Any) -> None:
    method = OpposingSignals(examples=8, losses=lambda m, b: m.each(b).mean())
    with pytest.raises(MeasureError, match=r"a tensor of shape \(\) for a batch of 8 examples.*shape \(8,\)"):
        training.train(method)


def test_losses_that_cease_are_warned_of_once_and_training_goes_on(training: Any) -> None:
    class Ceasing(training.Probed):  # type: ignore[misc, name-defined]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if self.trainer.global_step >= 4 else super().training_step(batch, batch_idx)

    method = OpposingSignals(examples=8, every_n_steps=2)
    kept = KeepAll(method)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, trainer = training.train(method, kept, module=Ceasing)
    messages = [str(warning.message) for warning in caught if "OpposingSignals" in str(warning.message)]
    assert len(messages) == 1
    assert "at step 4 there are no losses; OpposingSignals: training_step returned no loss" in messages[0]
    assert kept.state["steps"] == [0, 1, 2, 3]
    assert trainer.current_epoch == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"examples": 1}, "examples=1"),
        ({"every_n_steps": 0}, "every_n_steps=0"),
        ({"fraction": 0}, "fraction=0"),
        ({"fraction": float("nan")}, "fraction=nan"),
        ({"batch_size": 1.5}, r"batch_size=1\.5"),
        ({"losses": 4}, "losses=4"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=f"OpposingSignals: {message}"):
        OpposingSignals(**arguments)
