"""Which parameters take part: groups, frozen ones, ones without a gradient, tied, sparse and complex ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import BackboneFinetuning
from tiny_training import (
    CLASSES,
    FEATURES,
    Again,
    Ascend,
    Classifier,
    assert_moved,
    assert_same_bits,
    assert_second_pass_is_the_first,
    fit,
    perceptron,
    plain_sgd,
    samples,
    state,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader

from thunderstone import GradientStep, StepError, hookimpl

ONE_BATCH = {"data": DataLoader(samples(8), batch_size=8)}


def test_groups_keep_their_own_settings() -> None:
    """Two groups, two learning rates: after one plain SGD step each has moved by its own rate."""

    def two(_: Any) -> torch.optim.Optimizer:
        groups = [
            {"params": list(module.net[0].parameters()), "lr": 1.0},
            {"params": list(module.net[2].parameters()), "lr": 0.25},
        ]
        return torch.optim.SGD(groups)

    module, method = Classifier(optimizer=two), Ascend()
    before = state(module)
    fit(module, method, **ONE_BATCH)
    gradients = dict(zip(before, method._second[0], strict=True))
    for name, value in state(module).items():
        rate = 1.0 if name.startswith("net.0") else 0.25
        torch.testing.assert_close(value, before[name] - rate * gradients[name])


def test_a_step_lists_parameters_names_and_groups_side_by_side() -> None:
    class Listing(Again):
        @hookimpl
        def transform_gradients(self, step: GradientStep) -> None:
            listed.extend(zip(step.names, step.parameters, step.groups, strict=True))

    def one_group_each(_: Any) -> torch.optim.Optimizer:
        parameters = [p for p in module.parameters() if p.requires_grad]
        return torch.optim.SGD([{"params": [p], "lr": 0.1 * (i + 1)} for i, p in enumerate([*parameters, loose])])

    listed: list[tuple[str, nn.Parameter, dict[str, Any]]] = []
    loose = nn.Parameter(torch.zeros(2))
    module = Classifier(optimizer=one_group_each)
    module.net[0].bias.requires_grad_(False)
    fit(module, Listing(), **ONE_BATCH)
    assert [name for name, _, _ in listed] == ["net.0.weight", "net.2.weight", "net.2.bias", "group3.0"]
    assert listed[1][1] is module.net[2].weight
    assert [round(group["lr"], 3) for _, _, group in listed] == [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize("everything_in_the_optimizer", [True, False])
def test_frozen_parameters_stay_and_do_not_count(everything_in_the_optimizer: bool) -> None:
    def choose(parameters: Any) -> torch.optim.Optimizer:
        chosen = parameters if everything_in_the_optimizer else [p for p in parameters if p.requires_grad]
        return torch.optim.SGD(chosen, lr=0.1, weight_decay=0.1)

    method, module = Ascend(), Classifier(optimizer=choose)
    module.net[0].requires_grad_(False)
    before = state(module)
    fit(module, method)
    assert len(method._parameters) == 2
    assert_same_bits(state(module.net[0]), {name[6:]: before[name] for name in before if name.startswith("net.0")})
    assert_moved(before, module)


class Branches(Classifier):
    """One head in the first pass, another in a pass at other weights, both of them under a common trunk."""

    def __init__(self, optimizer: Any = None) -> None:
        super().__init__(optimizer=optimizer)
        self.only_first = nn.Parameter(torch.ones(()))
        self.only_second = nn.Parameter(torch.ones(()))
        self.reference = [parameter.detach().clone() for parameter in self.net.parameters()]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.reference = [parameter.detach().clone() for parameter in self.net.parameters()]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        moved = any(not torch.equal(p, r) for p, r in zip(self.net.parameters(), self.reference, strict=True))
        extra = self.only_second if moved else self.only_first
        return self.loss(batch) * extra


def test_a_parameter_with_a_gradient_in_one_pass_only() -> None:
    """One that is missing in the second pass is left alone by the optimizer, and is back where it was."""
    module, method = Branches(plain_sgd), Ascend()
    before = state(module)
    fit(module, method, **ONE_BATCH)
    assert len(method._parameters) == 6
    (first,), (second,) = method._first, method._second
    assert [gradient is not None for gradient in first[:2]] == [True, False]
    assert [gradient is not None for gradient in second[:2]] == [False, True]
    after = state(module)
    assert torch.equal(after["only_first"], before["only_first"])
    torch.testing.assert_close(after["only_second"], before["only_second"] - second[1])
    assert_moved(before, module)


def test_parameters_used_now_and_then() -> None:
    """Drawn by chance, as in stochastic depth: the second pass draws the same."""

    class Depth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                if torch.rand(()) < 0.5:
                    x = x + layer(x)
            return x

    runs = []
    for callbacks in ((), (method := Again(),)):
        torch.manual_seed(4)
        module = Classifier(perceptron(Depth()))
        fit(module, *callbacks)
        runs.append(module)
    assert_same_bits(*runs)
    assert_second_pass_is_the_first(method)
    present = {tuple(gradient is None for gradient in gradients) for gradients in method._first}
    assert len(present) > 1


def test_tied_weights_are_one_parameter() -> None:
    class Tied(Classifier):
        def __init__(self) -> None:
            torch.manual_seed(1)
            super().__init__(nn.Sequential(nn.Linear(FEATURES, 8, bias=False), nn.Tanh(), nn.Linear(8, FEATURES)))
            self.out = nn.Linear(FEATURES, 8, bias=False)
            self.out.weight = self.net[0].weight

        def loss(self, batch: Any) -> Tensor:
            return self.out(self.net(batch[0])).square().mean()

    module, method, plain = Tied(), Again(), Tied()
    fit(plain)
    fit(module, method)
    assert len(method._parameters) == 3
    assert_same_bits(plain, module)
    ascended, tied = Ascend(), Tied()
    fit(tied, ascended)
    assert tied.out.weight is tied.net[0].weight
    assert sum(parameter is tied.out.weight for parameter in ascended._parameters) == 1


def test_gradients_outside_of_the_optimizer_are_what_one_pass_leaves() -> None:
    """A parameter no optimizer moves gathers gradients; a second pass adds nothing to them."""

    def without_head(_: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.net[0].parameters(), lr=0.0)

    totals = []
    for callbacks in ((), (Ascend(),)):
        module = Classifier(optimizer=without_head)
        fit(module, *callbacks)
        totals.append(module.net[2].weight.grad.clone())
    assert torch.equal(*totals)


def test_a_group_added_in_the_middle_of_a_run_takes_part() -> None:
    class Finetuned(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.head(self.backbone(batch[0]).tanh()), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    torch.manual_seed(0)
    method = Ascend()
    fit(Finetuned(), method, BackboneFinetuning(unfreeze_backbone_at_epoch=1, lambda_func=lambda _: 1.0), max_epochs=2)
    assert [len(gradients) for gradients in method._first] == [2] * 6 + [4] * 6


def test_complex_parameters() -> None:
    """As in Fourier neural operators: the norm is over moduli."""

    class Spectral(Classifier):
        def __init__(self) -> None:
            super().__init__(optimizer=plain_sgd)
            self.filter = nn.Parameter(torch.ones(FEATURES // 2 + 1, dtype=torch.complex64))

        def loss(self, batch: Any) -> Tensor:
            filtered = torch.fft.irfft(torch.fft.rfft(batch[0]) * self.filter, n=FEATURES)
            return super().loss((filtered, batch[1]))

    norms: list[tuple[float, float]] = []

    class Norms(Ascend):
        def look(self, step: GradientStep) -> list[Tensor | None]:
            squares = sum(float(g.abs().square().sum()) for g in step.gradients if g is not None)
            norms.append((float(step.norm()), squares**0.5))
            return super().look(step)

    module, method = Spectral(), Norms()
    before = state(module)
    fit(module, method, **ONE_BATCH)
    assert norms[0][0] == pytest.approx(norms[0][1], rel=1e-5)
    assert_moved(before, module)
    plain, watched, again = Spectral(), Spectral(), Again()
    fit(plain)
    fit(watched, again)
    assert_same_bits(plain, watched)
    assert_second_pass_is_the_first(again)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
def test_sparse_gradients() -> None:
    """Those of an embedding that asks for them."""

    class Bag(Classifier):
        def __init__(self) -> None:
            torch.manual_seed(1)
            super().__init__(nn.Sequential(nn.Embedding(20, FEATURES, sparse=True), nn.Linear(FEATURES, CLASSES)))

        def loss(self, batch: Any) -> Tensor:
            return super().loss((torch.arange(len(batch[1])), batch[1]))

    plain, watched, again, ascended = Bag(), Bag(), Again(), Bag()
    fit(plain)
    fit(watched, again)
    assert_same_bits(plain, watched)
    assert all(gradients[0].is_sparse for gradients in again._first + again._second)
    before = state(ascended)
    fit(ascended, Ascend())
    assert_moved(before, ascended)


def test_lists_of_another_length_are_refused() -> None:
    class Short(Again):
        @hookimpl
        def transform_gradients(self, step: GradientStep) -> None:
            with pytest.raises(StepError, match=r"delta has 1 entries for 4 parameters.*None where there is nothing"):
                step.perturbed([None]).__enter__()
            step.gradients = [None] * 3

    with pytest.raises(StepError, match=r"gradients has 3 entries for 4 parameters"):
        fit(Classifier(), Short(), **ONE_BATCH)
