"""SVRG against the papers' equations in double precision, and in every setting that could change what it computes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from thunderstone import ArgumentError, CompositionError, LossStep, Method, UnsupportedSettingError, hookimpl
from thunderstone_estimators import SVRG

LR = 0.2


def reference(
    net: nn.Module,
    data: TensorDataset,
    alpha: Callable[[int, int, int, Tensor, Tensor, Tensor], Any],
    epochs: int = 2,
    batch_size: int = 8,
    accumulate: int = 1,
    every: int = 1,
    clip: float | None = None,
) -> nn.Module:
    """Algorithm 1 of Johnson & Zhang 2013 on one vector of all weights, with a coefficient.

    Args:
        alpha: (update, updates in all, updates since the snapshot, g, g at the snapshot, full gradient) to the
            coefficient: a number or one a weight.
    """
    net = copy.deepcopy(net)
    elsewhere = copy.deepcopy(net)
    x, y = data.tensors
    batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True))
    windows = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]

    def gradient(module: nn.Module, part: list[tuple[Tensor, Tensor]], by: int) -> Tensor:
        loss = sum(nn.functional.cross_entropy(module(a), b) for a, b in part) / by
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])

    update = since = 0
    for epoch in range(epochs):
        if epoch % every == 0:
            elsewhere.load_state_dict(net.state_dict())
            full, since = gradient(elsewhere, [(x, y)], 1), 0
        for window in windows:
            now, then = gradient(net, window, accumulate), gradient(elsewhere, window, accumulate)
            mean = full * len(window) / accumulate
            step = now - alpha(update, epochs * len(windows), since, now, then, mean) * (then - mean)
            if clip is not None:
                # As torch clips.
                step = step * min(1.0, clip / (float(step.norm()) + 1e-6))
            vector = nn.utils.parameters_to_vector(net.parameters()).detach() - LR * step
            nn.utils.vector_to_parameters(vector, net.parameters())
            update, since = update + 1, since + 1
    return net


def fixed(value: float) -> Callable[..., float]:
    return lambda *_: value


def linear(value: float) -> Callable[..., float]:
    return lambda update, updates, *_: value * (1 - update / updates)


class Optimal:
    """Covariance by variance, layer by layer, of the batches before, each weighing 0.9 of the next."""

    def __init__(self, net: nn.Module, limit: float) -> None:
        self.sizes = [parameter.numel() for parameter in net.parameters()]
        self.limit = limit

    def __call__(self, update: int, updates: int, since: int, now: Tensor, then: Tensor, mean: Tensor) -> Tensor:
        if since == 0:
            self.past: list[list[tuple[float, float]]] = [[] for _ in self.sizes]
        found = []
        parts = zip(*(vector.split(self.sizes) for vector in (now, then, mean)), strict=True)
        for past, (g, old, full) in zip(self.past, parts, strict=True):
            if past:
                ages = range(len(past) - 1, -1, -1)
                covariance = sum(0.9**age * c for age, (c, _) in zip(ages, past, strict=True))
                variance = sum(0.9**age * v for age, (_, v) in zip(ages, past, strict=True))
                found.append(min(self.limit, max(0.0, covariance / variance)))
            else:
                found.append(self.limit)
            past.append((float((g - full) @ (old - full)), float((old - full) @ (old - full))))
        return torch.cat([torch.full((n,), c, dtype=torch.float64) for n, c in zip(self.sizes, found, strict=True)])


def assert_equal(module: Any, expected: nn.Module, tolerance: float = 1e-12) -> None:
    for one, other in zip(module.net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


# -- against the equations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "alpha"),
    [
        (lambda: SVRG(1.0, "fixed"), fixed(1.0)),
        (lambda: SVRG(0.4, "fixed"), fixed(0.4)),
        (lambda: SVRG(), linear(0.75)),
        (lambda: SVRG(0.8, "linear", every_n_epochs=2), linear(0.8)),
        (lambda: SVRG(1.0, "optimal"), 1.0),
        (lambda: SVRG(0.9, "optimal", every_n_epochs=3), 0.9),
    ],
    ids=["svrg", "fixed", "alpha-svrg", "every other epoch", "optimal", "optimal, longer"],
)
@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.05}])
def test_updates_are_those_of_the_paper(
    method: Callable[[], SVRG],
    alpha: Any,
    settings: dict[str, Any],
    classifier: Any,
    dataset: Any,
    fit: Any,
    weights: Any,
) -> None:
    """Three batches an epoch: with two accumulated, the last update of an epoch is half of one."""
    module, one = classifier(), method()
    coefficient = Optimal(module.net, alpha) if isinstance(alpha, float) else alpha
    expected = reference(
        module.net,
        dataset(),
        coefficient,
        epochs=4,
        accumulate=settings.get("accumulate_grad_batches", 1),
        every=one.every_n_epochs,
        clip=settings.get("gradient_clip_val"),
    )
    before = weights(module)
    fit(module, one, max_epochs=4, **settings)
    assert_equal(module, expected)
    assert (weights(module) - before).abs().max() > 0.05
    plain = classifier()
    fit(plain, max_epochs=4, **settings)
    assert (weights(module) - weights(plain)).abs().max() > 1e-4


def test_the_mean_is_over_examples_not_batches(classifier: Any, dataset: Any, fit: Any) -> None:
    """The last batch of each epoch is smaller than the others."""
    module, data = classifier(), dataset(20)
    expected = reference(module.net, data, fixed(1.0))
    fit(module, SVRG(1.0, "fixed"), data=DataLoader(data, batch_size=8))
    assert_equal(module, expected)


def test_dropout_masks_are_the_same_at_both_points(classifier: Any, fit: Any, weights: Any) -> None:
    """At the snapshot a batch's two gradients are then equal, and a coefficient of 1 leaves the full gradient."""
    module, method = classifier(nn.Dropout(0.5)), SVRG(1.0, "fixed")
    before = weights(module)
    fit(module, method, max_steps=1)
    full = torch.cat([gradient.flatten() for gradient in method.state_dict()["gradient"].values()])
    torch.testing.assert_close(weights(module) - before, -LR * full, rtol=0, atol=1e-14)
    assert full.abs().max() > 1e-2


def test_normalisation_sees_one_pass(classifier: Any, fit: Any) -> None:
    plain, module = classifier(nn.BatchNorm1d(6)), classifier(nn.BatchNorm1d(6))
    fit(plain, max_steps=1)
    fit(module, SVRG(), max_steps=1)
    for one, other in zip(plain.buffers(), module.buffers(), strict=True):
        assert torch.equal(one, other)


def test_terms_of_other_methods_are_left_alone(classifier: Any, dataset: Any, fit: Any) -> None:
    """A term's gradient is added as it is: the coefficient must not take off what the term was at the snapshot."""

    class Decay(Method):
        name = "decay"

        @hookimpl
        def loss_terms(self, step: LossStep) -> dict[str, Tensor]:
            return {"square": 0.05 * sum(p.square().sum() for p in step.module.parameters())}

    module = classifier()
    net, data = copy.deepcopy(module.net), dataset()
    fit(module, SVRG(1.0, "fixed"), Decay(), max_steps=2)
    x, y = data.tensors
    elsewhere = copy.deepcopy(net)

    def gradients(at: nn.Module, rows: slice) -> list[Tensor]:
        loss = nn.functional.cross_entropy(at(x[rows]), y[rows])
        return list(torch.autograd.grad(loss, list(at.parameters())))

    for rows in (slice(0, 8), slice(8, 16)):
        parts = zip(
            list(net.parameters()),
            gradients(net, rows),
            gradients(elsewhere, rows),
            gradients(elsewhere, slice(None)),
            strict=True,
        )
        with torch.no_grad():
            for parameter, now, then, full in parts:
                parameter -= LR * (now - then + full + 0.1 * parameter)
    assert_equal(module, net)


def test_switched_off_it_goes_over_nothing(classifier: Any, fit: Any, weights: Any) -> None:
    calls = []

    class Counting(classifier):  # type: ignore[misc, valid-type]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            calls.append(batch_idx)
            return super().training_step(batch, batch_idx)

    module, plain = Counting(), classifier()
    fit(module, SVRG(0.0))
    fit(plain)
    assert len(calls) == 6
    assert torch.equal(weights(module), weights(plain))


def test_parameters_that_are_unfrozen_later_get_a_new_snapshot(classifier: Any, fit: Any) -> None:
    class Unfreeze(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 1:
                pl_module.net[0].requires_grad_(True)

    module, method = classifier(), SVRG(1.0, "fixed")
    module.net[0].requires_grad_(False)
    fit(module, Unfreeze(), method, max_steps=2)
    state = method.state_dict()
    assert set(state["gradient"]) == {"net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"}
    # Taken before the second update, at other weights than the first.
    assert not torch.equal(state["weights"]["net.2.bias"], classifier().net[2].bias)


def test_a_scaled_loss_is_no_other(classifier: Any, dataset: Any, fit: Any, weights: Any) -> None:
    """Under a GradScaler gradients are scaled and the snapshot's full gradient is not; up to float16 it is the same,
    and a scale that overflows in the pass over the data is found."""
    data = DataLoader(dataset(dtype=torch.float32), batch_size=8)
    moved = []
    for plugins in ([], [2.0**10], [2.0**22]):
        module = classifier(dtype=torch.float32)
        before = weights(module)
        scaled = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=s)) for s in plugins]
        method = SVRG(1.0, "fixed")
        fit(module, method, data=data, plugins=scaled)
        assert method.state_dict()["weights"]
        moved.append(weights(module) - before)
    torch.testing.assert_close(moved[1], moved[0], rtol=0.02, atol=2e-3)
    # The first updates are skipped, as in a plain run with such a scale.
    assert moved[2].isfinite().all()


# -- data that is gone over --------------------------------------------------------------------------------------------


class Stream(IterableDataset[Any]):
    """Samples in order; nobody knows how many."""

    def __init__(self, data: TensorDataset, count: int | None = None) -> None:
        self.data, self.count = data, count

    def __iter__(self) -> Iterator[Any]:
        number = 0
        while number < (len(self.data) if self.count is None else self.count):
            yield self.data[number % len(self.data)]
            number += 1


class Once(Stream):
    def __init__(self, data: TensorDataset) -> None:
        super().__init__(data)
        self.source = super().__iter__()

    def __iter__(self) -> Iterator[Any]:
        return self.source


def test_a_stream_without_a_length_is_gone_over_too(classifier: Any, dataset: Any, fit: Any) -> None:
    module = classifier()
    expected = reference(module.net, dataset(), linear(0.5))
    # Half of the epochs done is half of the updates: the schedule goes by epochs where updates cannot be counted.
    by_epochs = reference(module.net, dataset(), lambda update, updates, *_: 0.5 * (1 - (update // 3) / 2))
    fit(module, SVRG(0.5), data=DataLoader(Stream(dataset()), batch_size=8))
    assert_equal(module, by_epochs)
    assert any(not torch.equal(a, b) for a, b in zip(module.net.parameters(), expected.parameters(), strict=True))


def test_an_endless_stream_is_gone_over_as_far_as_training_goes(classifier: Any, dataset: Any, fit: Any) -> None:
    module = classifier()
    expected = reference(module.net, dataset(), fixed(1.0))
    endless = DataLoader(Stream(dataset(), count=10**9), batch_size=8)
    fit(module, SVRG(1.0, "fixed"), data=endless, limit_train_batches=3)
    # The second epoch begins the stream anew.
    assert_equal(module, expected)


def test_a_stream_that_can_be_read_only_once_is_refused(classifier: Any, dataset: Any, fit: Any) -> None:
    with pytest.raises(UnsupportedSettingError, match=r"SVRG cannot run with a training stream .*Once.*HINT"):
        fit(classifier(), SVRG(), data=DataLoader(Once(dataset()), batch_size=8))


def test_a_run_of_unknown_length_has_no_decay(classifier: Any, dataset: Any, fit: Any) -> None:
    endless = DataLoader(Stream(dataset(), count=10**9), batch_size=8)
    with pytest.raises(UnsupportedSettingError, match="coefficient='linear' decays over the whole run"):
        fit(classifier(), SVRG(), data=endless, max_epochs=-1, limit_train_batches=3)


# -- what cannot be used -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["loss", "gradient"])
def test_a_full_gradient_that_is_not_finite_is_said(place: str, classifier: Any, fit: Any, weights: Any) -> None:
    """Training goes on plainly until the next snapshot, which is taken again."""

    class Diverging(classifier):  # type: ignore[misc, valid-type]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            if self.sick and self.current_epoch == 0 and batch_idx == 1:
                # The derivative of a root is infinite at zero.
                return loss * torch.nan if place == "loss" else loss + (self.net[0].bias * 0).square().sum().sqrt()
            return loss

        sick = True

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.sick = False

    module, plain, method = Diverging(), classifier(), SVRG(1.0, "fixed")
    where = r" \(batch 1 of this process\)" if place == "loss" else ""
    with pytest.warns(UserWarning, match=rf"full gradient before epoch 0 is not finite{where}.*HINT"):
        fit(module, method, max_epochs=1)
    fit(plain, max_epochs=1)
    assert torch.equal(weights(module), weights(plain))
    assert method.state_dict()["weights"] == {}
    again = Diverging()
    with pytest.warns(UserWarning, match="not finite"):
        fit(again, method, max_epochs=2)
    assert method.state_dict()["weights"]


def test_no_loss_at_all_is_said(classifier: Any, fit: Any) -> None:
    class Silent(classifier):  # type: ignore[misc, valid-type]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None

    with pytest.raises(RuntimeError, match=r"SVRG: in a pass over the training data no batch gave a loss.*HINT"):
        fit(Silent(), SVRG())


def test_sparse_gradients_are_refused(fit: Any) -> None:
    class Embedding(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 2, sparse=True)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return self.table(batch[0]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = DataLoader(TensorDataset(torch.arange(5)), batch_size=2)
    with pytest.raises(UnsupportedSettingError, match=r"sparse gradients \(table.weight\)"):
        fit(Embedding(), SVRG(), data=data)


def test_a_static_graph_is_refused(classifier: Any, fit: Any) -> None:
    class Claim(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.strategy.model.static_graph = True

    with pytest.raises(UnsupportedSettingError, match="SVRG cannot run with static_graph=True"):
        fit(classifier(), Claim(), SVRG())


def test_sharded_strategies_are_refused() -> None:
    assert set(SVRG.unsupported_strategies) == {"FSDPStrategy", "ModelParallelStrategy"}


def test_one_owner_of_the_gradient(classifier: Any, fit: Any) -> None:
    class Other(Method):
        name = "other"
        exclusive = frozenset({"gradient"})

    with pytest.raises(CompositionError, match="both own the gradient"):
        fit(classifier(), SVRG(), Other())


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"alpha": -0.1}, "alpha"),
        ({"alpha": 1.5}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"every_n_epochs": 0}, "every_n_epochs"),
        ({"every_n_epochs": 1.5}, "every_n_epochs"),
        ({"coefficient": "optimum"}, "coefficient"),
        ({"coefficient": None}, "coefficient"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], argument: str) -> None:
    with pytest.raises(ArgumentError, match="HINT") as caught:
        SVRG(**arguments)
    assert caught.value.argument == argument


def test_the_nearest_coefficient_is_named() -> None:
    with pytest.raises(ArgumentError, match="Did you mean 'optimal'"):
        SVRG(coefficient="optimum")


# -- what it reports ---------------------------------------------------------------------------------------------------


def test_coefficient_and_full_gradient_are_reported(classifier: Any, fit: Any, reported: Any) -> None:
    method = SVRG(0.6)
    fit(classifier(), method, reported, max_epochs=2)
    assert reported.values["svrg/alpha"] == pytest.approx([0.6 * (1 - update / 6) for update in range(6)])
    norms = reported.values["svrg/full_gradient_norm"]
    assert len(norms) == 2
    last = torch.cat([gradient.flatten() for gradient in method.state_dict()["gradient"].values()])
    assert norms[1] == pytest.approx(last.norm().item())


def test_the_layers_coefficients_are_reported_by_their_mean(classifier: Any, fit: Any, reported: Any) -> None:
    fit(classifier(), SVRG(1.0, "optimal"), reported, max_epochs=2)
    values = [float(value) for value in reported.values["svrg/alpha"]]
    assert values[0] == values[3] == 1.0
    assert all(0 <= value <= 1 for value in values)
