"""SharpnessMonitor in real fits."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thunderstone import ArgumentError, Table, UnsupportedSettingError
from thunderstone_sharpness import SAM, SharpnessMonitor
from thunderstone_sharpness.measures import MeasureError, adaptive_sharpness, hessian_eigenvalues
from thunderstone_sharpness.measures import battery as battery_module
from thunderstone_sharpness.sharpness_monitor import MEASURES

SMALL: dict[str, Any] = {"examples": 24, "batch_size": 12, "draws": 2, "probes": 2, "steps": 3, "points": 3}


def features_of(module: Any, batch: Any) -> Tensor:
    return module.net(batch["x"]).square().mean()


def plain_examples() -> TensorDataset:
    return TensorDataset(torch.ones(6, 5), torch.zeros(6, dtype=torch.long))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accumulate_grad_batches": 2},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"max_steps": 7, "max_epochs": -1},
    ],
    ids=str,
)
def test_training_is_the_same_with_and_without_it(training: Any, settings: Any) -> None:
    def careless() -> Any:
        return training.Probed(in_place=True)

    plain = training.train(module=careless, **settings)
    monitor = SharpnessMonitor(every_n_epochs=1, **SMALL)
    watched = training.train(monitor, module=careless, **settings)
    assert training.same(plain, watched)
    assert [reading.status for reading in monitor.readings] == ["measured"] * 7


def test_training_on_a_stream_is_the_same_and_measured_on_what_passed(training: Any) -> None:
    plain = training.train(data=training.Streamed())
    monitor = SharpnessMonitor(**SMALL)
    watched = training.train(monitor, data=training.Streamed())
    assert training.same(plain, watched)
    assert [reading.status for reading in monitor.readings] == ["measured"] * 7


def test_composes_with_sam_and_changes_nothing_about_it(training: Any) -> None:
    plain = training.train(SAM(rho=0.1))
    assert training.same(plain, training.train(SharpnessMonitor(every_n_epochs=2, **SMALL), SAM(rho=0.1)))


def test_reports_every_measure_at_the_right_moment(training: Any) -> None:
    monitor = SharpnessMonitor(every_n_epochs=2, k=2, dimensions=2, **SMALL)
    listening = training.Listening(monitor)
    training.train(monitor, listening)
    observer = listening.observer
    scalars = ["loss", "average_sharpness", "average_sharpness_error", "worst_case_sharpness", "hessian_trace"]
    scalars += ["hessian_trace_error", "eigenvalue_1", "eigenvalue_2", "eigenvalue_1_residual"]
    for name in scalars:
        records = observer.named(f"sharpness_monitor/{name}")
        # After the second epoch, and when training ends.
        assert [record.step for record in records] == [9, 14], name
        assert all(isinstance(record.value, float) for record in records)
    # 2 / the largest learning rate of the two groups.
    assert observer.named("sharpness_monitor/two_over_learning_rate")[0].value == pytest.approx(20)
    for name in ("landscape", "eigen_landscape"):
        assert all(isinstance(record.value, Figure) for record in observer.named(f"sharpness_monitor/{name}"))
    table = observer.named("sharpness_monitor/measures")[-1].value
    assert isinstance(table, Table)
    assert {row[0] for row in table.rows} >= {"loss", "landscape", "eigenvalue_2", "worst_case_sharpness"}
    values = {row[0]: row[1] for row in table.rows}
    assert values["eigenvalue_1"] > values["eigenvalue_2"]
    assert values["worst_case_sharpness"] > 0


def test_an_epoch_that_was_measured_is_not_measured_again_at_the_end(training: Any) -> None:
    monitor = SharpnessMonitor(measures=["average_sharpness"], every_n_epochs=3, **SMALL)
    listening = training.Listening(monitor)
    training.train(monitor, listening)
    assert len(listening.observer.named("sharpness_monitor/loss")) == 1
    training.train(monitor, listening)  # A second fit is a fresh one.
    assert len(listening.observer.named("sharpness_monitor/loss")) == 2


def test_values_are_those_of_the_pure_functions(training: Any) -> None:
    data = TensorDataset(training.Augmented().x, training.Augmented().y)

    def cross_entropy(module: Any, batch: Any) -> Tensor:
        x, y = batch if isinstance(batch, (list, tuple)) else (batch["x"], batch["y"])
        return nn.functional.cross_entropy(module.net(x), y)

    def as_dict(items: list[Any]) -> dict[str, Tensor]:
        return {"x": torch.stack([x for x, _ in items]), "y": torch.stack([y for _, y in items])}

    monitor = SharpnessMonitor(measures=["worst_case_sharpness", "hessian_eigenvalues"], loss=cross_entropy, **SMALL)
    loader = DataLoader(data, batch_size=8, shuffle=True, collate_fn=as_dict)
    module, _ = training.train(monitor, data=loader)
    batches = [(data.tensors[0][:12], data.tensors[1][:12]), (data.tensors[0][12:24], data.tensors[1][12:24])]
    found = {name: value for reading in monitor.readings for name, value in reading.outcome.items()}
    assert found["worst_case_sharpness"] == adaptive_sharpness(module, batches, cross_entropy, rho=0.002, steps=3)
    assert found["eigenvalue_1"] == hessian_eigenvalues(module, batches, cross_entropy).values[0]


@pytest.mark.parametrize(
    "loss", [features_of, "features", f"{__name__}:features_of"], ids=["function", "own", "dotted"]
)
def test_loss_may_be_a_function_or_a_name(training: Any, loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "measured_losses", sys.modules[features_of.__module__])
    monitor = SharpnessMonitor(measures=["average_sharpness"], loss=loss, **SMALL)
    module, _ = training.train(monitor)
    batch = {"x": torch.stack([training.Augmented()[i]["x"] for i in range(24)])}
    module.eval()
    assert monitor.readings[0].outcome["loss"] == pytest.approx(features_of(module, batch).item(), rel=0.9)
    assert monitor.readings[0].status == "measured"


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("featurs", r"loss='featurs'.*Probed has no method of that name"),
        ("nowhere_at_all:loss", "No module named 'nowhere_at_all'"),
        ("math:pi", "it is float"),
    ],
)
def test_loss_that_cannot_be_found_is_refused_before_training(training: Any, loss: str, message: str) -> None:
    module = training.Probed()
    with pytest.raises(ArgumentError, match=message):
        training.train(SharpnessMonitor(loss=loss), module=module)
    assert not module.losses


def test_submodule_of_the_logits_is_looked_up_before_training(training: Any) -> None:
    module = training.Probed()
    with pytest.raises(ArgumentError, match=r"SharpnessMonitor: normalise_logits='nett'.*Did you mean 'net'"):
        training.train(SharpnessMonitor(normalise_logits="nett"), module=module)
    assert not module.losses
    monitor = SharpnessMonitor(normalise_logits="net", budget=None, **SMALL)
    training.train(monitor, max_epochs=1)
    assert [reading.status for reading in monitor.readings] == ["measured"] * 7


def test_radius_that_the_weights_cannot_hold_fails_alone(training: Any) -> None:
    monitor = SharpnessMonitor(measures=["worst_case_sharpness", "hessian_trace"], rho=1e-4, loss="features", **SMALL)
    with pytest.warns(UserWarning, match=r"worst_case_sharpness was not measured; failed: .*cannot hold a relative"):
        training.train(monitor, precision="bf16-true", max_epochs=1, module=lambda: _Cast(training.Probed()))
    status = {reading.name: reading.status for reading in monitor.readings}
    assert status["hessian_trace"] == "measured"


class _Cast:
    """Makes a module whose training step needs no particular input precision."""

    def __new__(cls, module: Any) -> Any:
        module.accuracy = nn.Identity()
        module.training_step = lambda batch, batch_idx: module.net(batch["x"]).square().mean()
        return module


def test_dataset_may_be_given_and_must_hold_examples(training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "measured_data", sys.modules[plain_examples.__module__])

    def ones(module: Any, batch: Any) -> Tensor:
        assert torch.equal(batch[0], torch.ones_like(batch[0]))
        return module.net(batch[0]).square().mean()

    for dataset in (plain_examples(), plain_examples, "measured_data:plain_examples"):
        monitor = SharpnessMonitor(measures=["average_sharpness"], loss=ones, dataset=dataset, **SMALL)
        training.train(monitor, max_epochs=1)
        assert [reading.status for reading in monitor.readings] == ["measured"] * 2
    with pytest.raises(ArgumentError, match=r"dataset=\[\].*holds no examples"):
        training.train(SharpnessMonitor(dataset=[]))
    with pytest.raises(ArgumentError, match="no __getitem__ and __len__"):
        training.train(SharpnessMonitor(dataset=iter([1])))


def test_transfer_hooks_of_the_user_see_every_batch_once(training: Any) -> None:
    class Hooked(training.Probed):  # type: ignore[misc, name-defined]
        transfers = 0

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            type(self).transfers += 1
            return {"x": 2 * batch["x"], "y": batch["y"]}

    def doubled(module: Any, batch: Any) -> Tensor:
        seen.append(batch["x"])
        return module.net(batch["x"]).square().mean()

    seen: list[Tensor] = []
    small = {"measures": ["average_sharpness"], "loss": doubled, **SMALL}
    plain = training.train(module=Hooked)
    count, Hooked.transfers = Hooked.transfers, 0
    assert training.same(plain, training.train(SharpnessMonitor(**small), module=Hooked))
    assert count == Hooked.transfers == 15
    # A dataset that was asked for goes through them: the module is made for what they return.
    data = [{"x": torch.ones(5), "y": torch.tensor(0)}] * 4
    seen.clear()
    training.train(SharpnessMonitor(dataset=data, **small), module=Hooked)
    assert Hooked.transfers == 31
    assert torch.equal(seen[0], 2 * torch.ones(4, 5))


def test_dataset_that_cannot_be_read_by_index_says_so(training: Any) -> None:
    class Named(training.Augmented):  # type: ignore[misc, name-defined]
        def __getitem__(self, key: Any) -> Any:
            return super().__getitem__({"a": 0, "b": 1}[key])

        def __len__(self) -> int:
            return 2

    loader = DataLoader(Named(), batch_size=2, sampler=["a", "b"])
    with pytest.raises(MeasureError, match=r"could not be read at index 0: KeyError.*pass dataset="):
        training.train(SharpnessMonitor(**SMALL), data=loader)


def test_budget_leaves_out_the_dear_measures_and_says_so(training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr(battery_module, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    monitor = SharpnessMonitor(budget=20, **SMALL)
    listening = training.Listening(monitor)
    plain = training.train()
    assert training.same(plain, training.train(monitor, listening))
    status = {reading.name: reading.status for reading in monitor.readings}
    assert next(iter(status)) == "loss"
    assert status["loss"] == "measured"
    assert status["landscape"] == "measured"
    assert sorted(s.split(":")[0] for s in status.values()) == ["left out"] * 4 + ["measured"] * 2 + ["stopped"]
    table = listening.observer.named("sharpness_monitor/measures")[0].value
    left_out = [row for row in table.rows if row[3] == "left out: the budget of 20 s was used up"]
    assert len(left_out) == 4
    assert all(row[1] is None for row in left_out)
    assert {row[0] for row in table.rows} >= set(MEASURES) - {"hessian_trace", "hessian_eigenvalues"}


def test_diverged_run_goes_on_with_one_warning(training: Any) -> None:
    class Diverging(training.Probed):  # type: ignore[misc, name-defined]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx)["loss"] * float("nan")

    monitor = SharpnessMonitor(**SMALL)
    with pytest.warns(
        UserWarning, match=r"SharpnessMonitor: loss was not measured; failed: loss: the loss is nan"
    ) as w:
        training.train(monitor, module=Diverging)
    assert len([warning for warning in w if "not measured" in str(warning.message)]) == 1
    assert {reading.status for reading in monitor.readings[1:]} == {"left out: loss could not be measured"}


def test_measure_that_fails_leaves_the_others(training: Any) -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient

    class Fused(training.Probed):  # type: ignore[misc, name-defined]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return Once.apply(super().training_step(batch, batch_idx)["loss"])

    monitor = SharpnessMonitor(**SMALL)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        training.train(monitor, module=Fused)
    messages = [str(warning.message) for warning in caught if "was not measured" in str(warning.message)]
    assert len(messages) == 3
    assert "Once.backward is marked once_differentiable" in messages[0]
    failed = {reading.name for reading in monitor.readings if reading.failed}
    assert failed == {"hessian_trace", "hessian_eigenvalues", "eigen_landscape"}
    assert sum(reading.status == "measured" for reading in monitor.readings) == 4


def test_exception_of_the_module_leaves_it_as_it_was(training: Any) -> None:
    def broken(module: Any, batch: Any) -> Tensor:
        module.calls = getattr(module, "calls", 0) + 1
        module.net[0].weight.data.add_(1)
        raise ValueError("user's own")

    interrupted = training.Probed()
    interrupted_start = {name: value.clone() for name, value in interrupted.state_dict().items()}
    with pytest.raises(ValueError, match="user's own"):
        training.train(SharpnessMonitor(loss=broken, **SMALL), module=lambda: interrupted)
    assert not hasattr(interrupted, "calls")
    assert "log" not in vars(interrupted)
    assert interrupted.training
    weights = [parameter.detach().clone() for parameter in interrupted.parameters()]
    whole = training.Probed()
    whole.load_state_dict(interrupted_start)
    training.train(module=lambda: whole)
    assert all(torch.equal(a, b) for a, b in zip(weights, whole.parameters(), strict=True))


def test_settings_in_which_training_step_is_no_loss_are_refused(training: Any) -> None:
    class Manual(training.Probed):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx)["loss"])
            optimizer.step()

    with pytest.raises(UnsupportedSettingError, match=r"SharpnessMonitor cannot run with manual.*pass loss="):
        training.train(SharpnessMonitor(**SMALL), module=Manual)
    monitor = SharpnessMonitor(measures=["hessian_trace"], loss="features", **SMALL)
    training.train(monitor, module=Manual)
    assert [reading.status for reading in monitor.readings] == ["measured"] * 2


def test_what_passed_by_survives_a_checkpoint(training: Any, tmp_path: Path) -> None:
    class Saving(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "two.ckpt")

    whole = SharpnessMonitor(measures=["average_sharpness"], **SMALL)
    training.train(whole, Saving(), data=training.Streamed(), max_epochs=1)
    saved = torch.load(tmp_path / "two.ckpt", weights_only=True)["callbacks"][whole.state_key]
    assert saved["passed"] == 16
    resumed = SharpnessMonitor(measures=["average_sharpness"], **SMALL)
    resumed.load_state_dict(saved)
    assert resumed.state_dict().keys() == {"batches", "passed"}
    indexed = SharpnessMonitor(**SMALL)
    training.train(indexed, max_epochs=1)
    assert indexed.state_dict() == {}


def test_fast_dev_run_and_evaluation_alone(training: Any) -> None:
    monitor = SharpnessMonitor(**SMALL)
    training.train(monitor, fast_dev_run=2)
    assert monitor.readings
    measured, trainer = training.train(max_epochs=1)
    monitor.readings = []
    trainer.callbacks.append(monitor)
    trainer.predict(_Predicting(measured), DataLoader(training.Augmented(), batch_size=8))
    assert monitor.readings == []


class _Predicting(nn.Module):
    def __new__(cls, module: Any) -> Any:
        module.predict_step = lambda batch, batch_idx: module.net(batch["x"])
        return module


def test_arguments_are_kept_and_can_be_written_down() -> None:
    monitor = SharpnessMonitor(measures=["landscape"], rho=0.5, norm="l2", normalise_logits="net")
    rebuilt = SharpnessMonitor(**json.loads(json.dumps(monitor.arguments)))
    assert rebuilt.arguments == monitor.arguments
    assert repr(rebuilt) == repr(monitor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"measures": ["sharpness"]}, r"measures='sharpness'"),
        ({"measures": "landscape"}, r"must be a list"),
        ({"measures": []}, r"must be a list that is not empty"),
        ({"rho": 0}, r"rho=0 .*above 0"),
        ({"rho": float("nan")}, r"rho=nan .*finite"),
        ({"norm": "linff"}, r"Did you mean 'linf'"),
        ({"budget": 0}, r"budget=0"),
        ({"every_n_epochs": -1}, r"every_n_epochs=-1"),
        ({"examples": 0}, r"examples=0"),
        ({"points": 4}, r"odd"),
        ({"dimensions": 3}, r"dimensions='3'"),
        ({"normalise_logits": 2}, r"normalise_logits=2"),
        ({"loss": 3}, r"loss=3"),
        ({"k": 0}, r"k=0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=f"SharpnessMonitor: .*{message}"):
        SharpnessMonitor(**arguments)


@pytest.mark.ddp
def test_two_processes_measure_alike_and_stay_together(replicas: Callable[[Path], list[dict[str, Any]]]) -> None:
    first, second = replicas(Path(__file__).with_name("two_processes.py"))
    # Weights and statistics of each process, to the last bit.
    assert first["watched"].equal(first["plain"])
    assert second["watched"].equal(second["plain"])
    assert first["status"] == second["status"] == ["measured"] * 7
    assert first["measured"] == second["measured"]
    assert first["measured"]["eigenvalue_1"] > 0
    assert first["history"].shape == (4, 16)
    assert first["history"].equal(second["history"])
