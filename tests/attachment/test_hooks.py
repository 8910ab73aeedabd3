"""The user's own hooks and overrides see exactly one pass, and the gradient that is theirs to see."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback
from tiny_training import Again, Ascend, Classifier, assert_same_bits, fit, plain_sgd
from torch import Tensor

HOOKS = (
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_train_end",
)


class Calls(Callback):
    """The names of the hooks a callback is called by, in order."""

    def __init__(self) -> None:
        self.names: list[str] = []


class HookedModule(Classifier):
    """The names of the hooks a module is called by, in order, outside of the module's own state."""

    def __init__(self, calls: list[str]) -> None:
        super().__init__()
        self._note = calls.append

    def configure_gradient_clipping(self, optimizer: Any, *rest: Any, **keywords: Any) -> None:
        self._note("configure_gradient_clipping")
        super().configure_gradient_clipping(optimizer, *rest, **keywords)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        self._note("optimizer_zero_grad")
        super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        self._note("lr_scheduler_step")
        super().lr_scheduler_step(scheduler, metric)

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _hook(owner: type, name: str) -> None:
    def hook(self: Any, *_: Any, **__: Any) -> None:
        (self.names.append if isinstance(self, Callback) else self._note)(name)

    setattr(owner, name, hook)


for _name in HOOKS:
    _hook(Calls, _name)
    _hook(HookedModule, _name)


def test_hooks_are_called_as_in_a_plain_run() -> None:
    runs = []
    for methods in ((), (Again(),), (Ascend(),)):
        module_calls: list[str] = []
        callback = Calls()
        fit(HookedModule(module_calls), *methods, callback, accumulate_grad_batches=2, gradient_clip_val=0.1)
        runs.append((module_calls, callback.names))
    assert runs[0] == runs[1] == runs[2]
    modules, callbacks = runs[0]
    assert modules.count("on_after_backward") == callbacks.count("on_before_backward") == 6
    assert modules.count("on_before_optimizer_step") == modules.count("optimizer_zero_grad") == 3


def test_gradients_before_the_optimizer_step_are_final_and_after_backward_are_the_first() -> None:
    after_backward: list[Tensor] = []
    before_step: list[Tensor] = []

    class Looking(Classifier):
        def on_after_backward(self) -> None:
            after_backward.append(self.net[0].weight.grad.clone())

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            before_step.append(self.net[0].weight.grad.clone())

    method = Ascend()
    fit(Looking(), method)
    for number in range(6):
        assert torch.equal(after_backward[number], method._first[number][0])
        assert torch.equal(before_step[number], method._second[number][0])
        assert not torch.equal(after_backward[number], before_step[number])


def test_weights_are_never_seen_perturbed_by_a_hook() -> None:
    class Watching(Classifier):
        def on_after_backward(self) -> None:
            seen.append(self.net[0].weight.detach().clone())

        def on_before_zero_grad(self, optimizer: Any) -> None:
            seen.append(self.net[0].weight.detach().clone())

        on_before_optimizer_step = on_before_zero_grad

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            weights.append(self.net[0].weight.detach().clone())

    seen: list[Tensor] = []
    weights: list[Tensor] = []
    fit(Watching(), Ascend())
    assert len(seen) == 18
    for number, weight in enumerate(seen):
        assert torch.equal(weight, weights[number // 3])


def test_an_optimizer_step_of_ones_own() -> None:
    """Warm-up as in Lightning's documentation: the rate is set before the step, the closure is handed on."""

    class WarmUp(Classifier):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * min(1.0, (self.trainer.global_step + 1) / 4)
            optimizer.step(closure=optimizer_closure)

    plain, watched, method = WarmUp(), WarmUp(), Again()
    fit(plain)
    fit(watched, method)
    assert len(method._first) == 6
    assert_same_bits(plain, watched)


def test_a_backward_of_ones_own_is_used_in_both_passes() -> None:
    class Doubled(Classifier):
        def __init__(self) -> None:
            super().__init__(optimizer=plain_sgd)
            self.backwards = 0

        def backward(self, loss: Tensor, *arguments: Any, **keywords: Any) -> None:
            self.backwards += 1
            (2 * loss).backward(*arguments, **keywords)

    single, doubled, method, other = Classifier(optimizer=plain_sgd), Doubled(), Again(), Again()
    fit(single, method, limit_train_batches=1)
    fit(doubled, other, limit_train_batches=1)
    assert doubled.backwards == 1
    for one, two in zip(method._second[0], other._second[0], strict=True):
        torch.testing.assert_close(2 * one, two)


def test_hooks_on_tensors_act_in_both_passes() -> None:
    """A gradient hook on a parameter is part of how gradients are computed."""
    module, method = Classifier(), Again()
    module.net[0].weight.register_hook(lambda gradient: gradient.clamp(-(2**-10), 2**-10))
    fit(module, method)
    assert all(float(gradients[0].abs().max()) <= 2**-10 for gradients in method._first + method._second)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(method._first, method._second, strict=True))


def test_methods_act_in_the_order_of_the_list_of_callbacks() -> None:
    order: list[str] = []

    class First(Again):
        name = "first"
        exclusive = frozenset()

        def look(self, step: Any) -> list[Tensor | None]:
            order.append("first")
            return super().look(step)

    class Second(First):
        name = "second"

        def look(self, step: Any) -> list[Tensor | None]:
            order.append("second")
            return step.gradients

    fit(Classifier(), First(), Second(), limit_train_batches=1)
    assert order == ["first", "second"]
