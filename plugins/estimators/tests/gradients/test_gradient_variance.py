"""GradientVariance against gradients computed one by one, with and without other methods, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins import MixedPrecision
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from thunderstone import (
    ArgumentError,
    GradientStep,
    LossStep,
    Method,
    Table,
    UnsupportedSettingError,
    UpdatePlan,
    hookimpl,
)
from thunderstone_estimators import SVRG, GradientVariance
from thunderstone_estimators.gradients.variance_figure import draw
from thunderstone_estimators.gradients.variance_reading import VarianceReading


def gradients_of(net: nn.Module, data: TensorDataset, size: int) -> list[list[Tensor]]:
    """The gradient of every batch in order, layer by layer."""
    x, y = data.tensors
    parameters = list(net.parameters())
    return [
        list(torch.autograd.grad(nn.functional.cross_entropy(net(a), b), parameters))
        for a, b in zip(x.split(size), y.split(size), strict=True)
    ]


def moments(gradients: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Variance and signal of each layer, from their definitions."""
    stacked = [torch.stack(layer).double() for layer in zip(*gradients, strict=True)]
    variance = torch.stack([layer.var(0).sum() for layer in stacked])
    norms = torch.stack([layer.mean(0).square().sum() for layer in stacked])
    return variance, norms - variance / len(gradients)


class Doubled(Method):
    """A method that changes gradients: twice as long, four times the variance."""

    name = "doubled"

    def __init__(self) -> None:
        self.counted = 0
        self.kept: list[int] = []

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        plan.request_recompute()

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        self.counted += 1
        self.record("doubled", 1.0)
        if not step.rehearsal:
            self.kept.append(step.index)
        again = step.recompute()
        step.gradients = [None if g is None else g + a for g, a in zip(step.gradients, again, strict=True)]  # type: ignore[operator]


# -- against the definition --------------------------------------------------------------------------------------------


def test_variance_and_signal_are_those_of_the_batches(classifier: Any, dataset: Any, fit: Any) -> None:
    """In a fixed order the draws of an epoch's length are the epoch's very batches."""
    module, monitor = classifier(), GradientVariance(every_n_steps=1, draws=100)
    variance, signal = moments(gradients_of(classifier().net, dataset(), 8))
    fit(module, monitor, max_steps=1)
    (reading,) = monitor.readings
    assert (reading.step, reading.draws, reading.plain_variance) == (0, 3, None)
    assert reading.names == ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]
    torch.testing.assert_close(reading.variance, variance)
    torch.testing.assert_close(reading.signal, signal)
    expected = max(0.0, float(signal.sum())) / float(variance.sum())
    assert reading.scalars() == {
        "variance": pytest.approx(float(variance.sum())),
        "signal_to_noise": pytest.approx(expected),
    }


def test_an_accumulated_update_is_one_gradient(classifier: Any, dataset: Any, fit: Any) -> None:
    """Two batches of 4 are one of 8."""
    monitor = GradientVariance(every_n_steps=1, draws=100)
    data = DataLoader(dataset(), batch_size=4)
    fit(classifier(), monitor, data=data, max_steps=1, accumulate_grad_batches=2)
    variance, signal = moments(gradients_of(classifier().net, dataset(), 8))
    torch.testing.assert_close(monitor.readings[0].variance, variance)
    torch.testing.assert_close(monitor.readings[0].signal, signal)


@pytest.mark.parametrize("draws", [2, 100])
def test_micro_batches_need_no_further_data(draws: int, classifier: Any, dataset: Any, fit: Any) -> None:
    """The variance of a mean of six is a sixth of one's."""
    read = []

    class Counting(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return dataset()[index]

    monitor = GradientVariance(every_n_steps=1, draws=draws, source="micro_batches")
    data = DataLoader(Counting(), batch_size=4)
    fit(classifier(), monitor, data=data, max_steps=1, accumulate_grad_batches=6)
    variance, signal = moments(gradients_of(classifier().net, dataset(), 4)[:draws])
    assert read == list(range(24))
    assert monitor.readings[0].draws == min(draws, 6)
    torch.testing.assert_close(monitor.readings[0].variance, variance / 6)
    torch.testing.assert_close(monitor.readings[0].signal, signal)


def test_dropout_is_part_of_the_noise(classifier: Any, dataset: Any, fit: Any) -> None:
    """Each draw has masks of its own: one batch alone has variance."""
    monitor = GradientVariance(every_n_steps=1, draws=4)
    x, y = dataset().tensors
    same = TensorDataset(x[:1].repeat(24, 1), y[:1].repeat(24))
    fit(classifier(nn.Dropout(0.5)), monitor, data=DataLoader(same, batch_size=4), max_steps=1)
    assert float(monitor.readings[0].variance.sum()) > 1e-4
    fit(classifier(), monitor, data=DataLoader(same, batch_size=4), max_steps=1)
    assert float(monitor.readings[0].variance.sum()) < 1e-20


# -- after other methods -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
def test_what_other_methods_make_of_the_gradient_is_measured(
    first: bool, classifier: Any, dataset: Any, fit: Any, reported: Any
) -> None:
    monitor, method = GradientVariance(every_n_steps=1, draws=100), Doubled()
    fit(classifier(), *([monitor, method] if first else [method, monitor]), reported, max_steps=1)
    variance, signal = moments(gradients_of(classifier().net, dataset(), 8))
    (reading,) = monitor.readings
    assert reading.plain_variance is not None
    torch.testing.assert_close(reading.plain_variance, variance)
    torch.testing.assert_close(reading.variance, 4 * variance)
    torch.testing.assert_close(reading.signal, 4 * signal)
    assert reading.ratio == pytest.approx(4)
    # Rehearsals leave no record and no attribute behind.
    assert method.counted == 1
    assert method.kept == [0]
    assert reported.values["doubled/doubled"] == [1.0]
    assert reported.values["gradient_variance/variance_ratio"] == [pytest.approx(4)]


def test_other_methods_losses_are_part_of_the_gradient(classifier: Any, dataset: Any, fit: Any) -> None:
    class Scaled(Method):
        name = "scaled"

        @hookimpl
        def loss_terms(self, step: LossStep) -> dict[str, Tensor]:
            return {"again": 2 * step.loss}

    monitor = GradientVariance(every_n_steps=1, draws=100)
    fit(classifier(), monitor, Scaled(), max_steps=1)
    variance, _ = moments(gradients_of(classifier().net, dataset(), 8))
    torch.testing.assert_close(monitor.readings[0].variance, 9 * variance)


def test_svrg_by_its_formula(classifier: Any, dataset: Any, fit: Any) -> None:
    """At the snapshot nothing is left; one update later what the formula leaves."""
    module, monitor = classifier(), GradientVariance(every_n_steps=1, draws=100)
    then, net = gradients_of(module.net, dataset(), 8), classifier().net
    full = [torch.stack(layer).mean(0) for layer in zip(*then, strict=True)]
    fit(module, monitor, SVRG(1.0, "fixed"), max_steps=2)
    with torch.no_grad():
        for parameter, gradient in zip(net.parameters(), full, strict=True):
            parameter -= 0.2 * gradient
    now = gradients_of(net, dataset(), 8)
    corrected = [[g - (o - f) for g, o, f in zip(a, b, full, strict=True)] for a, b in zip(now, then, strict=True)]
    first, second = monitor.readings
    assert float(first.variance.sum()) < 1e-25
    assert first.ratio is not None
    torch.testing.assert_close(second.variance, moments(corrected)[0])
    torch.testing.assert_close(second.signal, moments(corrected)[1])
    assert second.plain_variance is not None
    torch.testing.assert_close(second.plain_variance, moments(now)[0])
    assert second.ratio == pytest.approx(float(moments(corrected)[0].sum() / moments(now)[0].sum()))


@pytest.mark.parametrize("coefficient", ["linear", "optimal"])
def test_measuring_svrg_changes_no_bit_of_it(coefficient: str, classifier: Any, fit: Any, weights: Any) -> None:
    module, watched = (classifier(nn.Dropout(0.3), nn.BatchNorm1d(6)) for _ in range(2))
    for one, callbacks in ((module, []), (watched, [GradientVariance(every_n_steps=1, draws=2)])):
        torch.manual_seed(5)
        fit(one, *callbacks, SVRG(1.0, coefficient), max_epochs=3)
    assert torch.equal(weights(module), weights(watched))


def test_a_loss_scale_is_taken_off(classifier: Any, dataset: Any, fit: Any) -> None:
    data = DataLoader(dataset(dtype=torch.float32), batch_size=8)
    monitor = GradientVariance(every_n_steps=1, draws=100)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    module = classifier(dtype=torch.float32)
    fit(
        module, monitor, SVRG(0.5, "fixed"), data=data, max_steps=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)]
    )
    (reading,) = monitor.readings
    variance, _ = moments(gradients_of(classifier().net, dataset(), 8))
    assert reading.plain_variance is not None
    torch.testing.assert_close(reading.plain_variance, variance, rtol=0.02, atol=1e-5)
    # At the snapshot half of each gradient's deviation is taken off.
    torch.testing.assert_close(reading.variance, variance / 4, rtol=0.02, atol=1e-5)


# -- when, and for how long --------------------------------------------------------------------------------------------


def test_every_n_th_update_is_measured(classifier: Any, fit: Any) -> None:
    monitor = GradientVariance(every_n_steps=2, draws=2)
    fit(classifier(), monitor, max_epochs=3)
    assert [reading.step for reading in monitor.readings] == [1, 3, 5, 7]


def test_a_measurement_ends_with_its_budget(classifier: Any, fit: Any, dataset: Any) -> None:
    data = DataLoader(dataset(), batch_size=2)
    for budget, draws in ((1e-9, 2), (None, 12)):
        monitor = GradientVariance(every_n_steps=1, draws=12, budget=budget)
        fit(classifier(), monitor, data=data, max_steps=1)
        assert monitor.readings[0].draws == draws


# -- what it reports ---------------------------------------------------------------------------------------------------


def test_tables_and_figure(classifier: Any, fit: Any, reported: Any) -> None:
    monitor = GradientVariance(every_n_steps=2, draws=2)
    fit(classifier(), monitor, SVRG(), reported)
    (measurements,), (layers,) = (reported.values[f"gradient_variance/{name}"] for name in ("measurements", "layers"))
    assert isinstance(measurements, Table)
    assert [row[0] for row in measurements.rows] == [1, 3, 5]
    assert list(measurements.columns[:3]) == ["step", "draws", "seconds"]
    position = list(measurements.columns).index("variance")
    assert [row[position] for row in measurements.rows] == reported.values["gradient_variance/variance"]
    assert [row[0] for row in layers.rows] == ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]
    assert sum(row[2] for row in layers.rows) == pytest.approx(1)
    assert sum(row[1] for row in layers.rows) == pytest.approx(reported.values["gradient_variance/variance"][-1])
    (figure,) = reported.values["gradient_variance/variance_over_time"]
    assert isinstance(figure, Figure)
    left, right = figure.axes
    assert len(left.lines) == len(right.lines) == 2
    given = {line.get_label(): list(line.get_ydata()) for line in left.lines}["as given to the optimizer"]
    assert given == reported.values["gradient_variance/variance"]


def test_the_figure_of_one_gradient_has_one_line(classifier: Any, fit: Any) -> None:
    monitor = GradientVariance(every_n_steps=3, draws=2)
    fit(classifier(), monitor)
    assert [len(axes.lines) for axes in draw(monitor.readings).axes] == [1, 1]


def test_no_variance_has_no_ratio() -> None:
    nothing = torch.zeros(2, dtype=torch.float64)
    reading = VarianceReading(0, 2, 0.0, ["a", "b"], nothing, nothing + 1, nothing, nothing + 1)
    assert reading.scalars() == {"variance": 0.0, "plain_variance": 0.0}
    assert reading.layers()[1] == [["a", 0.0, None, None, 0.0, None], ["b", 0.0, None, None, 0.0, None]]
    assert len(draw([reading]).axes) == 2


def test_a_long_run_keeps_every_second_measurement(classifier: Any, fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thunderstone_estimators.gradients.gradient_variance._READINGS", 4)
    monitor = GradientVariance(every_n_steps=1, draws=2)
    fit(classifier(), monitor, max_steps=6)
    assert [reading.step for reading in monitor.readings] == [0, 2, 4, 5]


# -- what cannot be measured -------------------------------------------------------------------------------------------


class Once(IterableDataset[Any]):
    def __init__(self, data: TensorDataset) -> None:
        self.source = iter([data[number] for number in range(len(data))])

    def __iter__(self) -> Iterator[Any]:
        return self.source


def test_a_stream_that_can_be_read_only_once(classifier: Any, dataset: Any, fit: Any) -> None:
    """Micro-batches are the way out."""
    with pytest.raises(UnsupportedSettingError, match=r"GradientVariance cannot run with a training stream .*Once"):
        fit(classifier(), GradientVariance(every_n_steps=1), data=DataLoader(Once(dataset()), batch_size=4))
    monitor = GradientVariance(every_n_steps=1, source="micro_batches")
    data = DataLoader(Once(dataset()), batch_size=4)
    fit(classifier(), monitor, data=data, max_epochs=1, accumulate_grad_batches=3)
    assert [reading.draws for reading in monitor.readings] == [3, 3]


def test_one_batch_has_no_micro_batches(classifier: Any, fit: Any) -> None:
    with pytest.raises(UnsupportedSettingError, match=r"source='micro_batches' and accumulate_grad_batches=1.*HINT"):
        fit(classifier(), GradientVariance(source="micro_batches"))
    monitor = GradientVariance(every_n_steps=1, source="micro_batches")
    with pytest.warns(UserWarning, match=r"update \d was not measured: 1 finite gradients"):
        fit(classifier(), monitor, GradientAccumulationScheduler({1: 3}))
    assert [reading.step for reading in monitor.readings] == [3]


def test_less_data_than_two_updates(classifier: Any, fit: Any, dataset: Any) -> None:
    monitor = GradientVariance(every_n_steps=1)
    with pytest.warns(UserWarning, match=r"update 0 was not measured: 1 finite gradients.*HINT"):
        fit(classifier(), monitor, data=DataLoader(dataset(), batch_size=24), max_steps=1)
    assert monitor.readings == []


def test_gradients_that_are_not_finite_do_not_count(classifier: Any, fit: Any) -> None:
    class Diverging(classifier):  # type: ignore[misc, valid-type]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * (torch.nan if batch_idx == 1 else 1.0)

    monitor = GradientVariance(every_n_steps=1, draws=3)
    fit(Diverging(), monitor, max_steps=1)
    assert monitor.readings[0].draws == 2
    assert monitor.readings[0].variance.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"every_n_steps": 0}, "every_n_steps"),
        ({"draws": 1}, "draws"),
        ({"source": "microbatches"}, "source"),
        ({"budget": 0}, "budget"),
        ({"budget": float("inf")}, "budget"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], argument: str) -> None:
    with pytest.raises(ArgumentError, match="HINT") as caught:
        GradientVariance(**arguments)
    assert caught.value.argument == argument
