"""The penalty against the definition of the sliced distance; its targets; its draws; what it leaves alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thunderstone import ArgumentError, GradientStep, Method, StepError, UpdatePlan, create, hookimpl
from thunderstone_estimators import SlicedWassersteinPenalty, draw_directions

RATE = 0.1


class AutoEncoder(LightningModule):
    """Linear, on four numbers and a code of two; `noise` is added by the module's own random numbers."""

    def __init__(self, dtype: torch.dtype = torch.float32, noise: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(4, 2, dtype=dtype), nn.Linear(2, 4, dtype=dtype)
        self.noise = noise

    def training_step(self, batch: Any) -> Tensor:
        x = batch[0]
        code = self.encoder(x + self.noise * torch.randn_like(x))
        return (self.decoder(code) - x).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=RATE)


class Twins(AutoEncoder):
    """The encoder is called for each half of the batch; the second half lies elsewhere."""

    def training_step(self, batch: Any) -> Tensor:
        first, second = batch[0].chunk(2)
        return self.decoder(self.encoder(first)).square().mean() + self.encoder(second + 3).mean() * 0


def points(count: int = 12, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).to(dtype)


def fit(module: LightningModule, *methods: Method, data: Any = None, batch_size: int = 6, **settings: Any) -> Any:
    trainer = Trainer(
        accelerator="cpu",
        callbacks=list(methods),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        **{"max_epochs": 2, **settings},
    )
    trainer.fit(module, DataLoader(data if data is not None else TensorDataset(points()), batch_size=batch_size))
    return module


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def source(seed: int, batch: int) -> torch.Generator:
    """The generator of one batch in a run of one process."""
    state = np.random.SeedSequence([seed, batch, 0]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def power(x: Tensor, y: Tensor, theta: Tensor, p: float, upper: bool = False) -> Tensor:
    """SW_p^p by its definition, one direction after the other; with the upper control variate on request."""
    values, variates = [], []
    for direction in theta:
        u, v = (x @ direction).sort().values, (y @ direction).sort().values
        values.append((u - v).abs().pow(p).mean())
        variates.append((u.mean() - v.mean()) ** 2 + u.var(correction=0) + v.var(correction=0))
    f, c = torch.stack(values), torch.stack(variates)
    if not upper:
        return f.mean()
    mean = (x.mean(0) - y.mean(0)).square().sum() + x.var(0, correction=0).sum() + y.var(0, correction=0).sum()
    gamma = ((f - f.mean()) * (c - c.mean())).sum() / (c - c.mean()).square().sum()
    return f.mean() - gamma * (c.mean() - mean / x.shape[1])


@pytest.mark.parametrize(
    "arguments",
    [
        {"weight": 0.7},
        {"weight": 0.7, "p": 1.0, "directions": "qmc", "seed": 4},
        {"weight": 2.0, "loc": 1.5, "scale": 0.5, "control_variate": "upper", "directions": "uniform"},
        {"weight": 0.7, "target": "uniform", "chunk": 3},
    ],
    ids=str,
)
def test_against_the_definition(arguments: dict[str, Any]) -> None:
    data = points(dtype=torch.float64)
    method = SlicedWassersteinPenalty(output="encoder", num_projections=8, **arguments)
    trained = fit(AutoEncoder(torch.float64), method, data=TensorDataset(data))

    reference = AutoEncoder(torch.float64)
    for number in range(4):
        x = data[:6] if number % 2 == 0 else data[6:]
        generator = source(method.seed, number)
        if method.target == "normal":
            prior = torch.randn(6, 2, generator=generator, dtype=torch.float64)
        else:
            prior = 2 * torch.rand(6, 2, generator=generator, dtype=torch.float64) - 1
        theta = draw_directions(method.directions, 8, 2, generator)
        code = reference.encoder(x)
        penalty = power(code, method.loc + method.scale * prior, theta, method.p, method.control_variate == "upper")
        loss = (reference.decoder(code) - x).square().mean() + method.weight * penalty
        reference.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in reference.parameters():
                parameter -= RATE * parameter.grad
    torch.testing.assert_close(weights(trained), weights(reference), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("detach", [False, True])
def test_another_output(detach: bool) -> None:
    """The two calls of one encoder come together; detached, the target's own gradient is left out."""
    data = points(dtype=torch.float64)
    method = SlicedWassersteinPenalty(
        output="encoder", call=0, target="output:encoder", target_call=1, num_projections=5, detach_target=detach
    )
    trained = fit(Twins(torch.float64), method, data=TensorDataset(data), batch_size=12, max_epochs=1)

    reference = Twins(torch.float64)
    first, second = reference.encoder(data[:6]), reference.encoder(data[6:] + 3)
    theta = draw_directions("orthogonal", 5, 2, source(0, 0))
    loss = reference.decoder(first).square().mean() + power(first, second.detach() if detach else second, theta, 2)
    loss.backward()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter -= RATE * parameter.grad
    torch.testing.assert_close(weights(trained), weights(reference), rtol=1e-9, atol=1e-11)


class Nested(AutoEncoder):
    def training_step(self, batch: Any) -> Tensor:
        return self.decoder(self.encoder(batch["views"][1])).square().mean()


def test_an_entry_of_the_batch() -> None:
    """The decoder's output is matched to what the loader gives, wherever it lies in the batch."""
    data = points(dtype=torch.float64)
    batches = [{"views": [data, data * 2], "unused": 3}]
    method = SlicedWassersteinPenalty(output="decoder", target="batch:views:1", num_projections=5)
    module = Nested(torch.float64)
    trainer = Trainer(
        accelerator="cpu", callbacks=[method], max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches, batch_size=None))

    reference = Nested(torch.float64)
    made = reference.decoder(reference.encoder(data * 2))
    (made.square().mean() + power(made, data * 2, draw_directions("orthogonal", 5, 4, source(0, 0)), 2)).backward()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter -= RATE * parameter.grad
    torch.testing.assert_close(weights(module), weights(reference), rtol=1e-9, atol=1e-11)


class Sequence(AutoEncoder):
    def training_step(self, batch: Any) -> Tensor:
        return self.encoder(batch[0].reshape(-1, 3, 4)).square().mean()


@pytest.mark.parametrize(("point_dims", "shape"), [(1, (4, 6)), (2, (12, 2))])
def test_what_counts_as_a_point(point_dims: int, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    import thunderstone_estimators.sliced_wasserstein_penalty as module

    seen = []

    def note(x: Tensor, y: Tensor, **settings: Any) -> Tensor:
        seen.append((tuple(x.shape), tuple(y.shape)))
        return x.square().mean()

    monkeypatch.setattr(module, "sliced_wasserstein_distance", note)
    fit(Sequence(), SlicedWassersteinPenalty(output="encoder", point_dims=point_dims), batch_size=12, max_epochs=1)
    assert seen == [(shape, shape)]


def test_weight_zero_changes_nothing() -> None:
    off = fit(AutoEncoder(noise=0.5), SlicedWassersteinPenalty(0.0, output="encoder"))
    assert torch.equal(weights(off), weights(fit(AutoEncoder(noise=0.5))))


def test_the_modules_own_random_numbers_are_those_of_a_run_without_it() -> None:
    """With a weight too small to matter, noise and everything after is bit for bit as before."""
    ends = []
    for methods in ((), (SlicedWassersteinPenalty(1e-30, output="encoder"),)):
        ends.append((weights(fit(AutoEncoder(noise=0.5), *methods)), torch.rand(3)))
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])


class Again(Method):
    """Goes through every update's batches a second time and notes how far the gradient is from the first."""

    name = "again"

    def __init__(self) -> None:
        self.differences: list[float] = []
        self.gradients: list[Tensor] = []

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        plan.request_recompute()

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        first = torch.cat([gradient.flatten().clone() for gradient in step.gradients])
        second = torch.cat([gradient.flatten() for gradient in step.recompute()])
        self.differences.append(float((first - second).abs().max()))
        self.gradients.append(first)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_second_pass_sees_the_same_draws(accumulate: int) -> None:
    again = Again()
    method = SlicedWassersteinPenalty(5.0, output="encoder", num_projections=3)
    fit(AutoEncoder(noise=0.5), method, again, batch_size=3, accumulate_grad_batches=accumulate)
    assert again.differences == [0.0] * (8 // accumulate)


def test_every_batch_has_draws_of_its_own() -> None:
    again = Again()
    same = TensorDataset(points(3).repeat(4, 1))
    # The weights stand still, so that gradients can only differ by the draws.
    module = AutoEncoder()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)  # type: ignore[method-assign]
    fit(module, SlicedWassersteinPenalty(5.0, output="encoder", num_projections=3), again, data=same, batch_size=3)
    assert len({tuple(gradient.tolist()) for gradient in again.gradients}) == 8


def test_codes_come_to_the_prior() -> None:
    """What it is for: after training, the codes' mean and spread are the prior's."""
    torch.manual_seed(0)
    data = TensorDataset(0.5 + torch.randn(128, 4))
    codes = {}
    for weight in (0.0, 1.0):
        module = fit(
            AutoEncoder(),
            SlicedWassersteinPenalty(weight, output="encoder", loc=-2.0, scale=0.5),
            data=data,
            batch_size=64,
            max_epochs=60,
        )
        codes[weight] = module.encoder(data.tensors[0]).detach()
    assert (codes[1.0].mean(0) + 2).abs().max() < 0.25
    assert (codes[1.0].std(0) - 0.5).abs().max() < 0.25
    assert (codes[0.0].mean(0) + 2).abs().max() > 1


def test_an_output_that_is_not_finite_is_said_once() -> None:
    data = TensorDataset(points() * math.inf)
    with pytest.warns(
        UserWarning, match="SlicedWassersteinPenalty: the captured output .* not finite in batch 0"
    ) as said:
        fit(AutoEncoder(), SlicedWassersteinPenalty(output="encoder"), data=data)
    assert len([one for one in said if "not finite" in str(one.message)]) == 1


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (AutoEncoder, {"target": "batch:0"}, "points of 2 coordinates, target='batch:0' of 4"),
        (AutoEncoder, {"target": "batch:5"}, "target='batch:5' is NoneType, not a tensor. Entries of the batch: 0"),
        (AutoEncoder, {"target": "batch:1"}, r"target='batch:1' is of torch.int64"),
        (AutoEncoder, {"target": "batch"}, "target='batch' is list, not a tensor"),
        (AutoEncoder, {"target": "output:decoder"}, "points of 2 coordinates, target='output:decoder' of 4"),
        (AutoEncoder, {"point_dims": 3}, r"shape \(6, 2\), and its first 3 dimension"),
        (AutoEncoder, {"target": "output:encoder", "target_call": 1}, "call=1 of submodule 'encoder' was asked for"),
    ],
    ids=str,
)
def test_what_cannot_be_matched(module: Any, arguments: dict[str, Any], message: str) -> None:
    data = TensorDataset(points(), torch.zeros(12, dtype=torch.int64))
    with pytest.raises(StepError, match=f"SlicedWassersteinPenalty: .*{message}"):
        fit(module(), SlicedWassersteinPenalty(output="encoder", **arguments), data=data)


def test_no_such_output() -> None:
    for arguments in ({"output": "encodre"}, {"output": "encoder", "target": "output:encodre"}):
        with pytest.raises(ArgumentError, match=r"AutoEncoder has no submodule of that name.*encoder"):
            fit(AutoEncoder(), SlicedWassersteinPenalty(**arguments))


@pytest.mark.parametrize(
    "bad",
    [
        {"weight": -1},
        {"weight": math.nan},
        {"output": 3},
        {"call": 0.5},
        {"target": "gaussian"},
        {"target": None},
        {"target_call": 0},
        {"target_call": "last", "target": "output"},
        {"detach_target": 1},
        {"detach_target": True},
        {"detach_target": True, "target": "batch"},
        {"loc": math.inf},
        {"loc": 1.0, "target": "batch"},
        {"scale": 0},
        {"scale": 2.0, "target": "output"},
        {"num_projections": 0},
        {"p": 0.5},
        {"control_variate": "uper"},
        {"control_variate": 2},
        {"directions": "random"},
        {"point_dims": 0},
        {"seed": -1},
        {"chunk": 0},
    ],
    ids=str,
)
def test_bad_arguments(bad: dict[str, Any]) -> None:
    name = next(iter(bad))
    with pytest.raises(ArgumentError, match=f"SlicedWassersteinPenalty: {name}=.*HINT"):
        SlicedWassersteinPenalty(**bad)


def test_by_name() -> None:
    assert isinstance(create("sliced_wasserstein_penalty", output="encoder", weight=2), SlicedWassersteinPenalty)
