"""Clipping applies to the final gradient only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_training import Again, Ascend, Classifier, Spy, assert_same_bits, fit, plain_sgd, samples, state
from torch.utils.data import DataLoader

ONE_BATCH = {"data": DataLoader(samples(8), batch_size=8)}


def _one_step(**settings: Any) -> tuple[Ascend, dict[str, torch.Tensor]]:
    """The method, and by how much one step of SGD with a rate of 1 moved each weight: the gradient it was given."""
    module, method = Classifier(optimizer=plain_sgd), Ascend()
    before = state(module)
    fit(module, method, **ONE_BATCH, **settings)
    after = state(module)
    return method, {name: before[name] - after[name] for name in before}


def _total(tensors: Any) -> float:
    return float(torch.stack([tensor.norm() for tensor in tensors]).norm())


def test_by_norm() -> None:
    free, _ = _one_step()
    clipped, step = _one_step(gradient_clip_val=0.01)
    assert _total(step.values()) == pytest.approx(0.01, rel=1e-3)
    # The gradient of the first pass, and so the direction, is untouched by clipping, and so is the second.
    for one, other in zip(free._first[0] + free._second[0], clipped._first[0] + clipped._second[0], strict=True):
        assert torch.equal(one, other)
    scale = 0.01 / (_total(free._second[0]) + 1e-6)
    for moved, gradient in zip(step.values(), free._second[0], strict=True):
        torch.testing.assert_close(moved, gradient * scale, rtol=1e-3, atol=1e-6)


def test_by_value() -> None:
    clipped, step = _one_step(gradient_clip_val=0.002, gradient_clip_algorithm="value")
    assert _total(clipped._first[0]) > 0.1
    for moved, gradient in zip(step.values(), clipped._second[0], strict=True):
        torch.testing.assert_close(moved, gradient.clamp(-0.002, 0.002), rtol=1e-3, atol=1e-6)


def test_by_a_modules_own_rule_which_sees_the_final_gradient_once() -> None:
    seen: list[float] = []

    class Own(Classifier):
        def configure_gradient_clipping(
            self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
        ) -> None:
            seen.append(_total([p.grad for p in self.parameters()]))
            for parameter in self.parameters():
                parameter.grad.mul_(0.5)

    module, method = Own(optimizer=plain_sgd), Ascend()
    before = state(module)
    fit(module, method, **ONE_BATCH)
    assert seen == [pytest.approx(_total(method._second[0]))]
    for (name, value), gradient in zip(state(module).items(), method._second[0], strict=True):
        torch.testing.assert_close(before[name] - value, gradient * 0.5)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_looking_without_replacing_leaves_clipped_training_as_it_was(algorithm: str) -> None:
    runs = []
    for callbacks in ((), (Again(),), (Spy(),)):
        module = Classifier()
        fit(module, *callbacks, gradient_clip_val=0.05, gradient_clip_algorithm=algorithm, accumulate_grad_batches=2)
        runs.append(module)
    assert_same_bits(runs[0], runs[1])
    assert_same_bits(runs[0], runs[2])
