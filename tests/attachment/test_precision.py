"""32-bit, bf16-mixed and 16-mixed, with an overflow in either pass, or in both."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from tiny_training import (
    Again,
    Ascend,
    Classifier,
    assert_moved,
    assert_same_bits,
    assert_second_pass_is_the_first,
    fit,
    half_precision,
    loader,
    perceptron,
    plain_sgd,
    samples,
    state,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader

SCALE = 2.0**10
SETTINGS: dict[str, Any] = {
    "32-true": lambda: {"precision": "32-true"},
    "64-true": lambda: {"precision": "64-true"},
    "bf16-mixed": lambda: {"precision": "bf16-mixed"},
    "bf16-true": lambda: {"precision": "bf16-true"},
    "16-mixed": half_precision,
}


@pytest.mark.parametrize("precision", SETTINGS)
def test_a_second_pass_runs_in_the_precision_of_the_first(precision: str) -> None:
    dtypes: list[torch.dtype] = []

    class Listening(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            dtypes.append(logits.dtype)
            return logits

    plain, watched, method = Listening(), Listening(), Again()
    fit(plain, accumulate_grad_batches=2, **SETTINGS[precision]())
    fit(watched, method, accumulate_grad_batches=2, **SETTINGS[precision]())
    assert_second_pass_is_the_first(method)
    assert_same_bits(plain, watched)
    assert len(set(dtypes)) == 1
    assert len(dtypes) == 3 * 6


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16-mixed", 0.05), ("16-mixed", 0.01)])
def test_mixed_precision_follows_full_precision(precision: str, tolerance: float) -> None:
    full, mixed = Classifier(), Classifier()
    before = state(full)
    fit(full, Ascend())
    fit(mixed, Ascend(), **SETTINGS[precision]())
    assert_moved(before, full, 0.05)
    for name, value in state(full).items():
        torch.testing.assert_close(mixed.state_dict()[name], value, rtol=0, atol=tolerance)


def test_the_gradients_of_a_step_are_scaled_and_say_by_how_much() -> None:
    class Scale(Again):
        def look(self, step: Any) -> list[Tensor | None]:
            scales.append((step.loss_scale, float(step.norm()), float(step.unscaled(step.norm()))))
            return super().look(step)

    scales: list[tuple[float, float, float]] = []
    fit(Classifier(), Scale(), limit_train_batches=1, **half_precision(SCALE))
    fit(Classifier(), Scale(), limit_train_batches=1)
    (scale, scaled, unscaled), (one, full, same) = scales
    assert (scale, one) == (SCALE, 1.0)
    assert scaled == pytest.approx(SCALE * unscaled)
    assert unscaled == pytest.approx(full, rel=1e-2)
    assert full == same


class Overflow(torch.autograd.Function):
    """The identity, with a gradient of infinity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.full_like(gradient, torch.inf)


class Overflowing(Classifier):
    """Overflows on the second batch where the weights are, or are not, where the optimizer left them."""

    def __init__(self, first: bool, second: bool) -> None:
        super().__init__(perceptron(nn.BatchNorm1d(8)))
        self.in_pass = {1: first, 2: second}
        self.seen: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.seen.append(state(self))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch[0])
        _passes[batch_idx] += 1
        if batch_idx == 1 and self.in_pass[_passes[batch_idx]]:
            logits = Overflow.apply(logits)
        return nn.functional.cross_entropy(logits.float(), batch[1])


# How often each batch was gone through: outside of the module, where the attachment does not put it back.
_passes: Counter[int] = Counter()


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True), (False, False)])
def test_an_overflow_in_either_pass_skips_the_step(first: bool, second: bool) -> None:
    _passes.clear()
    module, method = Overflowing(first, second), Ascend()
    settings = half_precision(SCALE)
    scaler = settings["plugins"][0].scaler
    fit(module, method, limit_train_batches=3, **settings)
    overflowed = first or second
    before, after = module.seen[1], module.seen[2]
    weights = [name for name, _ in module.named_parameters()]
    same = all(torch.equal(before[name], after[name]) for name in weights)
    assert same == overflowed
    # The statistics of the first pass stand, as in a plain run whose step is skipped.
    assert after["net.1.num_batches_tracked"] == 2
    assert scaler.get_scale() == (SCALE / 2 if overflowed else SCALE)
    assert method._skipped == [False, overflowed, False]
    assert_moved(after, module)
    assert all(value.isfinite().all() for value in state(module).values())


def test_a_skipped_step_leaves_the_optimizer_alone() -> None:
    _passes.clear()
    module = Overflowing(False, True)
    fitted = fit(module, Ascend(), limit_train_batches=2, **half_precision(SCALE))
    _passes.clear()
    shorter = Overflowing(False, False)
    reference = fit(shorter, Ascend(), limit_train_batches=1, **half_precision(SCALE))
    momenta = [[entry["momentum_buffer"] for entry in run.optimizers[0].state.values()] for run in (fitted, reference)]
    assert momenta[0]
    assert all(torch.equal(one, other) for one, other in zip(*momenta, strict=True))


def test_clipping_under_a_scaler_sees_unscaled_gradients() -> None:
    norms: list[float] = []

    class Clipped(Classifier):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            norms.append(float(torch.stack([p.grad.norm() for p in self.parameters()]).norm()))

    module = Clipped(optimizer=plain_sgd)
    before = state(module)
    data = DataLoader(samples(4), batch_size=4)
    fit(module, Ascend(), data=data, gradient_clip_val=0.01, **half_precision(SCALE))
    moved = torch.stack([(before[name] - value).norm() for name, value in state(module).items()]).norm()
    assert float(moved) == pytest.approx(0.01, rel=1e-3)
    assert 0.01 < norms[0] < 100


def test_double_precision_norms_are_double() -> None:
    class Norm(Again):
        def look(self, step: Any) -> list[Tensor | None]:
            assert step.norm().dtype == torch.float64
            return super().look(step)

    method = Norm()
    fit(Classifier(), method, data=loader(dtype=torch.float64), precision="64-true")
    assert len(method._first) == 6
