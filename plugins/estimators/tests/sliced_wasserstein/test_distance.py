"""The distance against POT and by hand: values, gradients, layouts, precision, memory, refusals."""

from __future__ import annotations

import math

import pytest
import torch

from thunderstone import ArgumentError
from thunderstone_estimators import draw_directions, max_sliced_wasserstein_distance, sliced_wasserstein_distance
from thunderstone_estimators.sliced_wasserstein import one_dimensional

ot = pytest.importorskip("ot", reason="POT is the reference")

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def setting(cloud, masses, n, m, weighted, dtype):
    x, y = cloud(n, 5, dtype=dtype), cloud(m, 5, seed=1, dtype=dtype) + 0.3
    a, b = (masses(n, dtype=dtype), masses(m, seed=1, dtype=dtype)) if weighted else (None, None)
    return x, y, a, b, draw_directions("uniform", 20, 5, torch.Generator().manual_seed(2)).mT.to(dtype)


# -- against POT -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 27), (27, 40), (40, 20), (1, 9)])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_equal_pot(cloud, masses, dtype, p, n, m, weighted):
    x, y, a, b, projections = setting(cloud, masses, n, m, weighted, dtype)
    expected = ot.sliced_wasserstein_distance(x, y, a, b, p=p, projections=projections)
    value, log = sliced_wasserstein_distance(x, y, a, b, p=p, projections=projections, log=True)
    assert value.dtype == dtype
    assert value.item() == pytest.approx(expected.item(), rel=TOLERANCE[dtype])
    _, reference = ot.sliced_wasserstein_distance(x, y, a, b, p=p, projections=projections, log=True)
    emds = reference["projected_emds"]
    torch.testing.assert_close(log["projected_emds"], emds, rtol=10 * TOLERANCE[dtype], atol=10 * TOLERANCE[dtype])
    torch.testing.assert_close(log["projections"].to(dtype), projections)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize(("n", "m", "weighted"), [(12, 12, False), (12, 9, False), (12, 9, True), (9, 9, True)])
def test_gradients_equal_pot(cloud, masses, p, n, m, weighted):
    x, y, a, b, projections = setting(cloud, masses, n, m, weighted, torch.float64)
    leaves = [t.requires_grad_() for t in (x, y, a, b) if t is not None]
    expected = torch.autograd.grad(
        ot.sliced_wasserstein_distance(x, y, a, b, p=p, projections=projections), leaves, allow_unused=True
    )
    found = torch.autograd.grad(sliced_wasserstein_distance(x, y, a, b, p=p, projections=projections), leaves)
    for one, other in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    if weighted:
        # Weights live on the simplex: only differences of their gradients mean anything.
        for one, other in zip(found[2:], expected[2:], strict=True):
            torch.testing.assert_close(one - one.mean(), other - other.mean(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
def test_max_sliced_equals_pot_without_ascent(cloud, masses, weighted):
    x, y, a, b, projections = setting(cloud, masses, 30, 21, weighted, torch.float64)
    expected = ot.max_sliced_wasserstein_distance(x, y, a, b, projections=projections)
    assert max_sliced_wasserstein_distance(x, y, a, b, projections=projections).item() == pytest.approx(expected.item())


def test_one_weight_given_means_the_other_is_uniform(cloud, masses):
    x, y, a, _, projections = setting(cloud, masses, 10, 7, True, torch.float64)
    both = sliced_wasserstein_distance(x, y, a, torch.full((7,), 1 / 7, dtype=torch.float64), projections=projections)
    assert sliced_wasserstein_distance(x, y, a, projections=projections).item() == pytest.approx(both.item(), rel=1e-12)


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_a_shift_is_its_length_over_the_root_of_the_dimension(cloud):
    x = cloud(30, 3)
    shift = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
    value = sliced_wasserstein_distance(x, x + shift, control_variate="lower", num_projections=5)
    assert value.item() == pytest.approx(3 / math.sqrt(3), rel=1e-7)


def test_a_point_of_weight_zero_is_not_there(cloud, masses):
    x, y, b = cloud(6, 3), cloud(8, 3, seed=1), masses(8)
    a = torch.cat([masses(5), torch.zeros(1, dtype=torch.float64)])
    generator = torch.Generator().manual_seed
    value = sliced_wasserstein_distance(x, y, a, b, generator=generator(0))
    without = sliced_wasserstein_distance(x[:5], y, a[:5], b, generator=generator(0))
    assert value.item() == pytest.approx(without.item(), rel=1e-12)


def test_in_one_dimension_every_direction_says_the_same(cloud):
    x, y = cloud(15, 1), cloud(15, 1, seed=1)
    expected = (x.sort(0).values - y.sort(0).values).square().mean().sqrt().item()
    for variate in (None, "upper", "gaussian", "harmonic"):
        value = sliced_wasserstein_distance(x, y, control_variate=variate, num_projections=3)
        assert value.item() == pytest.approx(expected, rel=1e-7)


def test_max_sliced_ascent_finds_the_direction_of_a_shift(cloud):
    x = cloud(2, 40, 8)
    shift = torch.zeros(8, dtype=torch.float64).index_fill(0, torch.tensor([3]), 5.0)
    start = max_sliced_wasserstein_distance(x, x + shift, num_projections=3)
    value, log = max_sliced_wasserstein_distance(x, x + shift, num_projections=3, num_steps=40, log=True)
    assert (start < 4.9).all()
    torch.testing.assert_close(value, torch.full((2,), 5.0, dtype=torch.float64), rtol=1e-3, atol=0)
    torch.testing.assert_close(log["direction"][:, 3].abs(), torch.ones(2, dtype=torch.float64), rtol=1e-3, atol=0)


def test_more_ascent_is_never_worse(cloud):
    x, y = cloud(25, 6), cloud(30, 6, seed=1)
    values = [
        max_sliced_wasserstein_distance(x, y, num_steps=n, generator=torch.Generator().manual_seed(0)).item()
        for n in (0, 1, 5, 20)
    ]
    assert values == sorted(values)
    assert values[-1] > values[0]


# -- coinciding points -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variate", [None, "lower", "upper", "gaussian", "harmonic", ["upper", "gaussian"]])
@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_finite_where_clouds_coincide(cloud, masses, variate, p, weighted):
    x = cloud(10, 3).requires_grad_()
    y = x.detach().clone().requires_grad_()
    a = masses(10) if weighted else None
    value = sliced_wasserstein_distance(x, y, a, a, p=p, control_variate=variate)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-7)
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(y.grad).all()


def test_gradients_are_finite_for_single_points_on_top_of_one_another():
    x, y = torch.zeros(4, 3, requires_grad=True), torch.zeros(6, 3, requires_grad=True)
    for variate in (None, "upper", "gaussian"):
        sliced_wasserstein_distance(x, y, control_variate=variate).backward()
    assert x.grad.abs().max().item() == 0
    max_sliced_wasserstein_distance(x, y, num_steps=3).backward()
    assert torch.isfinite(x.grad).all()


# -- layouts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variate", [None, "upper", "gaussian", "harmonic"])
@pytest.mark.parametrize(("n", "m", "weighted"), [(10, 10, False), (10, 7, False), (10, 7, True)])
def test_a_batch_is_its_members(cloud, masses, variate, n, m, weighted):
    x, y = cloud(3, n, 4), cloud(3, m, 4, seed=1)
    a, b = (masses(3, n), masses(3, m, seed=1)) if weighted else (None, None)
    generator = torch.Generator()
    batch = sliced_wasserstein_distance(x, y, a, b, control_variate=variate, generator=generator.manual_seed(0))
    for i in range(3):
        one = sliced_wasserstein_distance(
            x[i],
            y[i],
            None if a is None else a[i],
            None if b is None else b[i],
            control_variate=variate,
            generator=generator.manual_seed(0),
        )
        assert batch[i].item() == pytest.approx(one.item(), rel=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("variate", [None, "upper", "gaussian", "harmonic"])
def test_one_cloud_is_compared_with_every_cloud_of_a_batch(cloud, masses, weighted, variate):
    x, y, a = cloud(3, 10, 70), cloud(8, 70, seed=1), masses(10) if weighted else None
    generator = torch.Generator()
    arguments = {"control_variate": variate, "num_projections": 40}
    forth = sliced_wasserstein_distance(x, y, a, generator=generator.manual_seed(0), **arguments)
    back = sliced_wasserstein_distance(y, x, None, a, generator=generator.manual_seed(0), **arguments)
    full = sliced_wasserstein_distance(x, y.expand(3, -1, -1), a, generator=generator.manual_seed(0), **arguments)
    torch.testing.assert_close(forth, back, rtol=1e-9, atol=0)
    torch.testing.assert_close(forth, full, rtol=1e-9, atol=0)


# -- precision, seeds, memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variate", [None, "upper"])
def test_half_precision_is_computed_in_float32(cloud, dtype, variate):
    """Squared distances of 400 overflow float16."""
    x, y = cloud(20, 3).mul(400).to(dtype).requires_grad_(), cloud(20, 3, seed=1).to(dtype)
    value = sliced_wasserstein_distance(x, y, control_variate=variate, generator=torch.Generator().manual_seed(0))
    wide = sliced_wasserstein_distance(
        x.double(), y.double(), control_variate=variate, generator=torch.Generator().manual_seed(0)
    )
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(wide.item(), rel=1e-5)
    value.backward()
    assert x.grad.dtype == dtype
    assert torch.isfinite(x.grad).all()


def test_autocast_changes_nothing(cloud):
    x, y = cloud(20, 3, dtype=torch.float32), cloud(17, 3, seed=1, dtype=torch.float32)

    def value():
        return sliced_wasserstein_distance(x, y, control_variate="upper", generator=torch.Generator().manual_seed(0))

    expected = value()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(value(), expected)


@pytest.mark.parametrize("directions", ["uniform", "orthogonal", "qmc"])
def test_a_seed_decides_everything_and_the_global_generator_stays(cloud, directions):
    x, y = cloud(10, 3), cloud(10, 3, seed=1)
    state = torch.get_rng_state()
    values = [
        sliced_wasserstein_distance(
            x, y, control_variate="gaussian", directions=directions, generator=torch.Generator().manual_seed(seed)
        ).item()
        for seed in (0, 0, 1)
    ]
    assert values[0] == values[1] != values[2]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(0)
    first = sliced_wasserstein_distance(x, y)
    torch.manual_seed(0)
    assert torch.equal(first, sliced_wasserstein_distance(x, y))


@pytest.mark.parametrize(("m", "weighted"), [(30, False), (20, False), (20, True)])
@pytest.mark.parametrize("variate", [None, "upper", "harmonic"])
def test_chunks_change_neither_value_nor_gradient(cloud, masses, m, weighted, variate):
    x, y = cloud(30, 4).requires_grad_(), cloud(m, 4, seed=1)
    a = masses(30).requires_grad_() if weighted else None
    leaves = [x] if a is None else [x, a]

    def both(chunk):
        value = sliced_wasserstein_distance(
            x, y, a, control_variate=variate, chunk=chunk, generator=torch.Generator().manual_seed(0)
        )
        return value, *torch.autograd.grad(value, leaves)

    for one, other in zip(both(None), both(7), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """The most elements any tensor had that was made meanwhile."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize("weighted", [False, True])
def test_chunks_bound_memory(cloud, masses, weighted):
    x, y = cloud(1000, 3).requires_grad_(), cloud(900, 3, seed=1)
    a = masses(1000) if weighted else None

    def measured(chunk):
        """Elements kept for the backward pass, and of the largest tensor of both passes."""
        kept = {}

        def pack(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
            return tensor

        with LargestTensor() as seen:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                value = sliced_wasserstein_distance(x, y, a, num_projections=200, chunk=chunk, control_variate="upper")
            total = sum(kept.values())
            value.backward()
        return total, seen.largest

    all_at_once, chunked = measured(None), measured(10)
    assert all_at_once[0] > 200 * 1000
    assert all_at_once[1] >= 200 * 1000
    assert chunked[0] < 20 * 1900
    assert chunked[1] <= 10 * 1901


@pytest.mark.parametrize("chunk", [None, 6])
def test_the_kernel_does_not_run_twice_without_need(cloud, monkeypatch, chunk):
    calls = []
    original = one_dimensional._costs
    monkeypatch.setattr(one_dimensional, "_costs", lambda *a: calls.append(1) or original(*a))
    with torch.no_grad():
        sliced_wasserstein_distance(cloud(5, 3), cloud(5, 3, seed=1), num_projections=12, chunk=chunk)
    assert len(calls) == (1 if chunk is None else 2)


# -- refusals ----------------------------------------------------------------------------------------------------------

X = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("x", {"x": torch.zeros(4, 3, dtype=torch.int64)}),
        ("x", {"x": torch.zeros(0, 3)}),
        ("x", {"x": torch.zeros(4)}),
        ("x", {"x": [[0.0, 1.0]]}),
        ("x", {"x": torch.full((4, 3), math.nan)}),
        ("y", {"y": torch.full((4, 3), math.inf)}),
        ("y", {"y": torch.zeros(4, 2)}),
        ("x", {"x": torch.zeros(4, 0), "y": torch.zeros(4, 0)}),
        ("y", {"x": torch.zeros(2, 4, 3), "y": torch.zeros(3, 4, 3)}),
        ("a", {"a": torch.full((4,), 0.5)}),
        ("a", {"a": torch.tensor([1.5, -0.5, 0, 0])}),
        ("a", {"a": torch.full((4,), math.nan)}),
        ("a", {"a": torch.full((3,), 1 / 3)}),
        ("b", {"b": torch.ones(4, dtype=torch.int64)}),
        ("num_projections", {"num_projections": 0}),
        ("num_projections", {"num_projections": 2.5}),
        ("p", {"p": 0.5}),
        ("p", {"p": math.inf}),
        ("directions", {"directions": "random"}),
        ("chunk", {"chunk": 0}),
        ("projections", {"projections": torch.zeros(2, 5)}),
        ("projections", {"projections": torch.full((3, 5), math.nan)}),
        ("projections", {"projections": torch.ones(3, 5, dtype=torch.int64)}),
    ],
)
@pytest.mark.parametrize("function", [sliced_wasserstein_distance, max_sliced_wasserstein_distance])
def test_bad_input_is_named(function, argument, change):
    with pytest.raises(ArgumentError, match="HINT") as caught:
        function(**{"x": X, "y": X, **change})
    assert caught.value.argument == argument
    assert caught.value.method == function.__name__


def test_the_number_of_steps_is_checked():
    with pytest.raises(ArgumentError, match="num_steps"):
        max_sliced_wasserstein_distance(X, X, num_steps=-1)
