"""The step object by itself: exact, multi-tensor, and no larger than it need be."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import Again, Ascend, Classifier, fit, perceptron, state
from torch import Tensor, nn

from thunderstone import GradientStep, StepError
from thunderstone.attachment.window import copy_containers
from thunderstone.tensor_lists import total_norm


def _step(module: nn.Module, **arguments: Any) -> GradientStep:
    return GradientStep(torch.optim.SGD(module.parameters(), lr=0.1), module, **arguments)


@given(scale=st.floats(1e-30, 1e30), seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_weights_come_back_to_the_last_bit(scale: float, seed: int) -> None:
    """Also where the perturbation is so large that adding and subtracting it would lose every digit."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    before = state(module)
    pointers = [parameter.data_ptr() for parameter in module.parameters()]
    with _step(module).perturbed([torch.randn_like(parameter) * scale for parameter in module.parameters()]):
        assert any(not torch.equal(value, before[name]) for name, value in module.state_dict().items()) or scale < 1e-8
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert pointers == [parameter.data_ptr() for parameter in module.parameters()]


def test_a_perturbation_is_added() -> None:
    module = nn.Linear(3, 2)
    before = state(module)
    with _step(module).perturbed([torch.full((2, 3), 0.25), None]):
        assert torch.equal(module.weight, before["weight"] + 0.25)
        assert torch.equal(module.bias, before["bias"])
    assert module.weight.requires_grad
    assert module.weight.is_leaf


def test_weights_can_be_set_and_come_back() -> None:
    """The very bits of other weights, where adding their difference would round; also after an exception."""
    torch.manual_seed(0)
    module, other = nn.Linear(30, 2), nn.Linear(30, 2)
    before, pointers = state(module), [parameter.data_ptr() for parameter in module.parameters()]
    step = _step(module)
    with step.moved_to([1e-3 * other.weight.detach(), None]):
        assert torch.equal(module.weight, 1e-3 * other.weight)
        assert torch.equal(module.bias, before["bias"])
        with step.perturbed([None, torch.ones(2)]):
            assert torch.equal(module.bias, before["bias"] + 1)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    with pytest.raises(RuntimeError, match="on purpose"), step.moved_to([other.weight, other.bias]):
        raise RuntimeError("on purpose")
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert pointers == [parameter.data_ptr() for parameter in module.parameters()]
    with pytest.raises(StepError, match="values has 1 entries for 2 parameters"), step.moved_to([None]):
        pass


def test_perturbations_can_be_nested() -> None:
    module = nn.Linear(3, 2)
    before = state(module)
    step = _step(module)
    with step.perturbed([torch.ones(2, 3), torch.ones(2)]):
        inside = state(module)
        with step.perturbed([None, torch.ones(2)]):
            assert torch.equal(module.bias, before["bias"] + 1 + 1)
        assert all(torch.equal(inside[name], value) for name, value in module.state_dict().items())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=5),
    scale=st.floats(1e-3, 1e3),
    missing=st.booleans(),
)
@settings(max_examples=50)
def test_the_norm_is_that_of_everything_in_one_vector(shapes: list[list[int]], scale: float, missing: bool) -> None:
    tensors: list[Tensor | None] = [torch.randn(shape) * scale for shape in shapes]
    flat = torch.cat([torch.zeros(1), *(tensor.flatten() for tensor in tensors if tensor is not None)]).double()
    if missing:
        tensors.append(None)
    norm = total_norm(tensors)
    assert norm.dim() == 0
    torch.testing.assert_close(norm.double(), flat.norm(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.complex64, torch.float32),
        (torch.complex128, torch.float64),
    ],
)
def test_norms_are_accumulated_in_a_wide_type(dtype: torch.dtype, wide: torch.dtype) -> None:
    tensors = [torch.full((100,), 300, dtype=dtype), torch.full((44,), 300, dtype=dtype)]
    norm = total_norm(tensors)  # the squares of half-precision entries do not fit into half precision
    assert norm.dtype == wide
    assert float(norm) == pytest.approx(3600)


def test_the_norm_of_a_sparse_tensor_adds_entries_of_one_place_first() -> None:
    twice = torch.sparse_coo_tensor(torch.tensor([[0, 0]]), torch.tensor([3.0, 1.0]), (5,), check_invariants=True)
    assert float(total_norm([twice, torch.tensor([3.0])])) == pytest.approx(5)


@pytest.fixture
def held() -> Iterator[Callable[[], int]]:
    """Bytes held by the tensors created since the test began, each storage once."""
    gc.collect()
    gc.freeze()  # what is there already is no longer listed

    def count() -> int:
        # By type: some objects warn when they are asked for their class, and a compiler's fake tensors have no storage.
        tensors = [item for item in gc.get_objects() if type(item) in (Tensor, nn.Parameter)]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    yield count
    gc.unfreeze()


def test_looking_elsewhere_holds_one_copy_of_the_weights(held: Callable[[], int]) -> None:
    """Inside, the direction is gone too when it was passed as an expression."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256))
    weights = sum(parameter.nbytes for parameter in module.parameters())
    step = _step(module)
    directions: list[weakref.ref[Tensor]] = []

    def direction() -> list[Tensor | None]:
        delta: list[Tensor | None] = [torch.ones_like(parameter) for parameter in step.parameters]
        directions.extend(weakref.ref(tensor) for tensor in delta if tensor is not None)
        return delta

    before = held()
    with step.perturbed(direction()):
        inside = held()
        assert len(directions) == 4
        assert all(remembered() is None for remembered in directions)
    assert before == weights
    assert inside - before == weights
    assert held() == before


def test_gradients_that_are_taken_are_freed_with_the_list() -> None:
    module = nn.Linear(8, 8)
    module(torch.ones(1, 8)).sum().backward()
    step = _step(module)
    taken = step.take_gradients()
    assert step.gradients == [None, None]
    remembered = [weakref.ref(gradient) for gradient in taken]
    del taken
    assert all(reference() is None for reference in remembered)


def test_a_second_pass_leaves_the_first_gradients_where_they_are() -> None:
    class Identity(Again):
        def look(self, step: GradientStep) -> list[Tensor | None]:
            before = step.gradients
            second = step.recompute()
            assert all(one is other for one, other in zip(before, step.gradients, strict=True))
            assert all(one is not other for one, other in zip(before, second, strict=True))
            return second

    method = Identity()
    fit(Classifier(), method)
    assert len(method._second) == 6


def test_a_batch_may_be_gone_through_any_number_of_times() -> None:
    class Often(Ascend):
        def look(self, step: GradientStep) -> list[Tensor | None]:
            first = step.recompute()
            with step.perturbed([None if g is None else g * 0.1 for g in step.gradients]):
                elsewhere = step.recompute()
            again = step.recompute()
            for one, other, far in zip(first, again, elsewhere, strict=True):
                assert torch.equal(one, other)
                assert not torch.equal(one, far)
            return again

    method, plain, watched = Often(), *(Classifier(perceptron(nn.Dropout(0.3))) for _ in range(2))
    fit(watched, method, accumulate_grad_batches=2)
    fit(plain, accumulate_grad_batches=2)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


def test_another_objective_takes_the_place_of_the_loss() -> None:
    """The gradient of twice the loss is twice the gradient, micro-batches accumulated as ever."""

    class Doubled(Again):
        def look(self, step: GradientStep) -> list[Tensor | None]:
            return step.recompute(objective=lambda loss_step: 2 * loss_step.loss)

    method = Doubled()
    fit(Classifier(), method, accumulate_grad_batches=3)
    for first, second in zip(method._first, method._second, strict=True):
        for one, other in zip(first, second, strict=True):
            torch.testing.assert_close(2 * one, other)


def test_containers_are_copied_and_tensors_are_not() -> None:
    tensor = torch.ones(2)
    original = {"a": [tensor, {"b": (tensor, 3)}], "c": None}
    copied = copy_containers(original)
    copied["a"][1].pop("b")
    copied["a"].append(1)
    assert original["a"][1]["b"] == (tensor, 3)
    assert len(original["a"]) == 2
    assert copied["a"][0] is tensor
