"""What is pruned is zero: weights, gradients and optimizer slots, whatever the run is made of."""

from __future__ import annotations

import copy
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from masking import Fixed, Given, Moving, Watching, assert_sparse, largest
from tiny_training import (
    FEATURES,
    Ascend,
    Classifier,
    assert_moved,
    assert_same_bits,
    fit,
    half_precision,
    loader,
    perceptron,
    samples,
    sgd,
    state,
    trainer,
)
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from thunderstone import Method, hookimpl
from thunderstone.attachment.mask_enforcement import zero


@pytest.fixture(autouse=True)
def _interrupts() -> Iterator[None]:
    """Lightning turns Ctrl-C off for good when it has seen one."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


OPTIMIZERS: dict[str, Callable[[Iterable[Any]], Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.1),
    "adadelta": torch.optim.Adadelta,
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


def by_hand(net: nn.Module, masks: dict[str, Tensor], optimizer: Optimizer, epochs: int, clip: float) -> None:
    """Training under fixed masks, from the definition: kept weights are all there is."""
    parameters = dict(net.named_parameters())
    for name, mask in masks.items():
        parameters[name].data[~mask] = 0
    for _ in range(epochs):
        for x, y in loader(dtype=torch.float64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            for name, mask in masks.items():
                parameters[name].grad[~mask] = 0
            norm = torch.stack([p.grad.square().sum() for p in net.parameters()]).sum().sqrt()
            if norm > clip:
                for parameter in net.parameters():
                    parameter.grad.mul_(clip / (norm + 1e-6))
            optimizer.step()
            for name, mask in masks.items():
                parameters[name].data[~mask] = 0
                for slot in optimizer.state[parameters[name]].values():
                    if isinstance(slot, Tensor) and slot.shape == mask.shape:
                        slot[~mask] = 0


@pytest.mark.parametrize("name", ["momentum", "adamw", "adamax"])
def test_training_is_that_of_the_kept_weights_alone(name: str) -> None:
    net, twin = perceptron().double(), perceptron().double()
    start = state(net)
    method = Fixed(0.4)
    module = Classifier(net, OPTIMIZERS[name])
    fit(module, method, data=loader(dtype=torch.float64), max_epochs=3, gradient_clip_val=0.3, precision="64-true")
    masks = largest(perceptron().double(), 0.4)
    by_hand(twin, masks, OPTIMIZERS[name](twin.parameters()), 3, 0.3)
    assert {f"net.{key}": value.tolist() for key, value in masks.items()} == {
        k: v.tolist() for k, v in method.masks.items()
    }
    assert_moved(start, twin)
    for key, value in twin.state_dict().items():
        torch.testing.assert_close(net.state_dict()[key], value, rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", [Fixed(0.3), Moving(0.3)], ids=repr)
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_nothing_pruned_survives_an_update(name: str, method: Method) -> None:
    watching = Watching()
    module = Classifier(optimizer=OPTIMIZERS[name])
    before = state(module)
    fit(module, copy.deepcopy(method), watching)
    assert watching._updates == 6
    assert watching._gradients >= 12
    assert watching._slots or name == "lbfgs"
    assert_moved(before, module)


def test_without_the_host_momentum_revives_what_is_pruned() -> None:
    """What the test above would see: masked once, everything comes back."""
    module = Classifier()
    masks = {f"net.{name}": mask for name, mask in largest(module.net, 0.3).items()}

    class Once(Callback):
        def on_train_batch_end(self, running: Any, pruned: Any, batch: Any, outputs: Any, number: int) -> None:
            if number == 2:
                for name, parameter in pruned.named_parameters():
                    if name in masks:
                        parameter.data[~masks[name]] = 0

        def on_before_optimizer_step(self, running: Any, pruned: Any, optimizer: Any) -> None:
            for name, parameter in pruned.named_parameters():
                if running.global_step > 2 and name in masks:
                    parameter.grad[~masks[name]] = 0

    fit(module, Once())
    with pytest.raises(AssertionError):
        assert_sparse(module, masks)


SETTINGS: dict[str, dict[str, Any]] = {
    "accumulated": {"accumulate_grad_batches": 4},
    "clipped by norm": {"gradient_clip_val": 0.05},
    "clipped by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    "fast dev run": {"fast_dev_run": 3},
}


@pytest.mark.parametrize("chosen", list(SETTINGS))
def test_it_holds_under_every_setting(chosen: str) -> None:
    watching, method = Watching(), Moving(0.4)
    fit(Classifier(), method, watching, **SETTINGS[chosen])
    assert watching._updates >= 3
    assert method.masks.density == pytest.approx(0.4, abs=0.05)


def test_half_precision_with_an_overflow() -> None:
    class Overflowing(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.loss(batch) * (1e30 if batch_idx == 1 else 1.0)

    chosen, watching, method = half_precision(), Watching(), Moving(0.4)
    fit(Overflowing(), method, watching, **chosen)
    assert chosen["plugins"][0].scaler.get_scale() < 2.0**10
    assert watching._updates == 6
    assert method._changes >= 2


def test_a_gradient_that_is_not_a_number_stops_at_the_mask() -> None:
    """The derivative of a norm at zero, say: what is pruned must not poison the rest."""

    class Poisonous(Classifier):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch) + self.net[0].weight[0].abs().sqrt().sum()

    module = Poisonous()
    masks = {"net.0.weight": torch.ones(8, FEATURES, dtype=torch.bool)}
    masks["net.0.weight"][0] = False
    fit(module, Given(masks), gradient_clip_val=1.0)
    assert_sparse(module, masks)
    assert all(bool(value.isfinite().all()) for value in module.state_dict().values())


@given(
    bits=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=8),
    pattern=st.integers(0, 255),
    kind=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64]),
)
@settings(max_examples=60, deadline=None)
def test_zeroing_is_exact_for_every_bit_pattern(bits: list[int], pattern: int, kind: torch.dtype) -> None:
    raw = torch.tensor(bits * 4, dtype=torch.int32)
    tensor = raw.view(kind).clone()
    kept = torch.tensor([bool(pattern >> (number % 8) & 1) for number in range(tensor.numel())])
    codes = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    before = tensor.clone().view(codes)
    zero([tensor], [kept])
    after = tensor.view(codes)
    assert torch.equal(after[kept], before[kept])
    assert not after[~kept].any()


# -- beside other things -----------------------------------------------------------------------------------------------


def test_nothing_is_changed_while_there_are_no_masks() -> None:
    plain, owned = Classifier(), Classifier()
    fit(plain, max_epochs=2)
    fit(owned, Given(), max_epochs=2)
    assert_same_bits(plain, owned)


def test_an_empty_mapping_ends_all_masking() -> None:
    class Ending(Fixed):
        @hookimpl
        def after_update(self, step: Any) -> None:
            if step.index == 2:
                self.masks.set({})

    method, module = Ending(0.3), Classifier()
    fit(module, method)
    assert len(method.masks) == 0
    assert method.masks.density == 1.0
    assert bool((module.net[0].weight != 0).all())


def test_another_methods_second_pass_stays_among_the_kept_weights() -> None:
    looked: list[Tensor] = []

    class Looking(Ascend):
        def look(self, step: Any) -> Any:
            factor = self.rho / step.norm()
            with step.perturbed([None if g is None else g * factor for g in step.gradients]):
                looked.append(step.parameters[0].detach().clone())
                return step.recompute()

    module, method = Classifier(), Fixed(0.3)
    fit(module, method, Looking(rho=1.0), Watching())
    pruned = ~method.masks["net.0.weight"]
    assert len(looked) == 6
    assert all(bool((weights[pruned] == 0).all()) for weights in looked)
    assert_sparse(module, method.masks)


def test_dense_gradients_are_those_of_a_plain_backward() -> None:
    seen: list[dict[str, Tensor]] = []

    class Seeing(Fixed):
        @hookimpl
        def plan_update(self, plan: Any) -> None:
            if plan.index == 1:
                self.masks.request_dense_gradients()

        @hookimpl
        def transform_gradients(self, step: Any) -> None:
            seen.append(dict(self.masks.dense_gradients))

        @hookimpl
        def after_update(self, step: Any) -> None:
            assert self.masks.dense_gradients.keys() == seen[-1].keys()

        def on_train_batch_end(self, *_: Any) -> None:
            assert not self.masks.dense_gradients

    module = Classifier(optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    fit(module, Seeing(0.3), accumulate_grad_batches=2)
    assert [len(gradients) for gradients in seen] == [0, 2, 0]
    x, y = samples().tensors
    module.zero_grad()
    nn.functional.cross_entropy(module(x[8:16]), y[8:16]).backward()
    for name, parameter in module.named_parameters():
        if name in seen[1]:
            torch.testing.assert_close(seen[1][name], parameter.grad)
            assert bool((seen[1][name] != 0)[parameter == 0].any())


def test_the_average_of_weight_averaging_is_sparse() -> None:
    callbacks = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging")
    method, module = Moving(0.4), Classifier()
    averaging = callbacks.EMAWeightAveraging(decay=0.8)
    fit(module, averaging, method, max_epochs=2)
    assert method._changes >= 5
    assert_sparse(module, method.masks)
    other = Classifier()
    fit(other, Moving(0.4), max_epochs=2)
    assert_moved(state(other), module)


@pytest.mark.filterwarnings("ignore:.*swa_start")
@pytest.mark.parametrize("extra", [(), (nn.BatchNorm1d(8),)], ids=["plain", "with an epoch for the statistics"])
@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
def test_the_average_of_stochastic_weight_averaging_is_sparse(first: bool, extra: tuple[nn.Module, ...]) -> None:
    method, module = Moving(0.4), Classifier(perceptron(*extra))
    averaging = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    fit(module, *((method, averaging) if first else (averaging, method)), max_epochs=3)
    assert_sparse(module, method.masks)


def test_weights_that_a_user_moves_between_updates() -> None:
    class Shaking(Callback):
        def on_train_batch_end(self, running: Any, module: LightningModule, *_: Any) -> None:
            module.net[0].weight.data.add_(1.0)

        def on_before_optimizer_step(self, running: Any, module: LightningModule, optimizer: Any) -> None:
            module.net[0].weight.grad.add_(0.1)

    method, module = Fixed(0.3), Classifier()
    running = fit(module, Shaking(), method)
    assert_sparse(module, method.masks)
    slot = running.optimizers[0].state[module.net[0].weight]["momentum_buffer"]
    assert not slot[~method.masks["net.0.weight"]].any()


class Alternating(Classifier):
    """Two optimizers, stepped by hand; the second past Lightning's wrapper."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()
        for optimizer in (first, second.optimizer):
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [sgd(self.net[0].parameters()), torch.optim.Adam(self.net[2].parameters(), lr=0.01)]


def test_several_optimizers_that_the_module_steps_itself() -> None:
    module, watching, method = Alternating(), Watching(), Fixed(0.4)
    before = state(module)
    fit(module, method, watching)
    assert watching._updates == 6
    assert watching._slots == 6 * 3
    assert_moved(before, module)
    assert_sparse(module, method.masks)


# -- life cycle --------------------------------------------------------------------------------------------------------


def test_a_fit_leaves_sparse_weights_and_nothing_else() -> None:
    method, module = Fixed(0.4), Classifier()
    fitting = trainer(method)
    callbacks, strategy = list(fitting.callbacks), set(vars(fitting.strategy))
    fitting.fit(module, loader())
    assert fitting.callbacks == callbacks
    assert "optimizer_step" not in vars(fitting.strategy)
    assert strategy <= set(vars(fitting.strategy))
    assert_sparse(module, method.masks)
    assert method.masks.kept == 29
    assert repr(method.masks) == "Masks(29 of 72 weights kept in 2 parameters)"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_update_leaves_sparse_weights(error: type[BaseException]) -> None:
    class Interrupted(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.add_(1.0)
            raise error("now")

    method, module = Fixed(0.4), Classifier(optimizer=lambda p: Interrupted(p, lr=0.1))
    fitting = trainer(method)
    with pytest.raises((error, SystemExit)):
        fitting.fit(module, loader())
    assert "optimizer_step" not in vars(fitting.strategy)
    assert_sparse(module, method.masks)


def test_a_second_fit_keeps_the_masks_and_another_module_does_not_get_them() -> None:
    method, module, other, fresh = Fixed(0.4), Classifier(), Classifier(perceptron(nn.BatchNorm1d(8))), Classifier()
    fit(module, method)
    first = dict(method.masks)
    fit(module, method, Watching())
    assert all(torch.equal(mask, first[name]) for name, mask in method.masks.items())
    fit(other, method, Watching())
    assert set(method.masks) == {"net.0.weight", "net.3.weight"}
    twin = Classifier()
    fit(twin, Fixed(0.4))
    fit(fresh, method)
    assert_same_bits(twin, fresh)


def test_copies_can_be_read_and_begin_anew() -> None:
    method, module = Fixed(0.4), Classifier()
    fit(module, method)
    for twin in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert all(torch.equal(mask, method.masks[name]) for name, mask in twin.masks.items())
        again, reference = Classifier(), Classifier()
        fit(again, twin)
        fit(reference, Fixed(0.4))
        assert_same_bits(again, reference)
    copied = copy.deepcopy(module)
    assert_same_bits(copied, module)


def test_a_checkpoint_is_that_of_a_plain_module(tmp_path: Path) -> None:
    method, module = Fixed(0.4), Classifier()
    running = fit(module, method)
    running.save_checkpoint(tmp_path / "pruned.ckpt")
    saved = torch.load(tmp_path / "pruned.ckpt", weights_only=True)
    plain = Classifier()
    assert list(saved["state_dict"]) == list(plain.state_dict())
    plain.load_state_dict(saved["state_dict"])
    assert_sparse(plain, method.masks)
    kept = saved["callbacks"][method.state_key]["masks"]
    assert all(torch.equal(mask, kept[name]) and mask.dtype == torch.bool for name, mask in method.masks.items())


def test_a_division_by_zero_stays_outside() -> None:
    """Adam without eps divides the zeros of what is pruned by zero."""
    module = Classifier(optimizer=lambda p: torch.optim.Adam(p, lr=0.01, eps=0.0))
    masks = {"net.0.weight": torch.arange(8 * FEATURES).view(8, FEATURES) % 5 != 0}
    fit(module, Given(masks), Watching())
    assert all(bool(value.isfinite().all()) for value in module.state_dict().values())


@pytest.mark.parametrize("method", [Fixed, Moving])
@pytest.mark.parametrize("averaged", [False, True], ids=["weights", "averages"])
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_run_goes_on_with_its_masks(method: type[Fixed], averaged: bool, tmp_path: Path) -> None:
    def extra() -> list[Callback]:
        if not averaged:
            return []
        return [pytest.importorskip("lightning.pytorch.callbacks.weight_averaging").EMAWeightAveraging(decay=0.8)]

    def data() -> Any:
        return DataLoader(TensorDataset(*samples().tensors), batch_size=4, shuffle=True)

    def saving(folder: Path) -> ModelCheckpoint:
        return ModelCheckpoint(folder, every_n_train_steps=4, save_top_k=-1)

    whole, resumed = Classifier(), Classifier()
    fit(whole, *extra(), method(0.4), saving(tmp_path / "a"), data=data(), max_epochs=2, enable_checkpointing=True)
    going_on, watching = method(0.4), Watching()
    torch.manual_seed(123)
    fitting = trainer(*extra(), going_on, watching, saving(tmp_path / "b"), max_epochs=2, enable_checkpointing=True)
    fitting.fit(resumed, data(), ckpt_path=str(next(tmp_path.glob("a/*step=4.ckpt"))))
    assert watching._updates == 8
    assert_same_bits(whole, resumed)
    assert_sparse(resumed, going_on.masks)


def test_torch_compile_sees_the_sparse_weights() -> None:
    module, method = Classifier(), Fixed(0.4)
    module.net = torch.compile(module.net, backend="eager")
    fit(module, method, Watching())
    assert set(method.masks) == {"net._orig_mod.0.weight", "net._orig_mod.2.weight"}
    masks = {name.replace("_orig_mod.", ""): mask for name, mask in method.masks.items()}
    plain, compiled = Classifier(), Classifier()
    fit(plain, Given(masks))
    compiled.net = torch.compile(compiled.net, backend="eager")
    fit(compiled, Given(masks))
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    torch.compiler.reset()
