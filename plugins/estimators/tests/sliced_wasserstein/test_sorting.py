"""Sorting with NumPy is torch's sort: values, order, derivatives, and wherever NumPy cannot reach."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thunderstone_estimators.sliced_wasserstein import sorting
from thunderstone_estimators.sliced_wasserstein.sorting import sort_last, sorted_last


@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.sampled_from(["float32", "float64"]))
def test_it_is_torchs_sort(count: int, rows: int, batch: int, ties: bool, dtype: str) -> None:
    generator = torch.Generator().manual_seed(count)
    values = torch.randn(batch, rows, count, generator=generator).to(getattr(torch, dtype))
    values = values.round() if ties else values
    expected = torch.sort(values, -1)
    found, order = sort_last(values)
    assert torch.equal(found, expected.values)
    assert torch.equal(values.gather(-1, order), found)
    assert torch.equal(order.sort(-1).values, torch.arange(count).expand_as(order))
    assert torch.equal(sorted_last(values), expected.values)
    if not ties:
        assert torch.equal(order, expected.indices)


@pytest.mark.parametrize("threads", [1, 3])
def test_in_pieces_and_on_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "WORTH_THREADS", 10)
    monkeypatch.setattr(sorting, "PIECE", 50)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    values = torch.randn(17, 23)
    before = values.clone()
    expected = torch.sort(values, -1)
    assert torch.equal(sort_last(values)[1], expected.indices)
    assert torch.equal(sorted_last(values), expected.values)
    assert torch.equal(values, before)


def test_not_contiguous() -> None:
    values = torch.randn(6, 5, 4).transpose(0, 2)
    assert torch.equal(sorted_last(values), torch.sort(values, -1).values)
    assert torch.equal(sort_last(values.requires_grad_())[0], torch.sort(values, -1).values)


def test_derivatives_of_first_and_second_order() -> None:
    values = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: sorted_last(v) * weights, values)
    assert torch.autograd.gradgradcheck(lambda v: (sorted_last(v) * weights).square(), values)


def test_where_numpy_cannot_reach() -> None:
    values = torch.randn(3, 7)

    def spread(row: torch.Tensor) -> torch.Tensor:
        return (sorted_last(row).diff() ** 2).sum()

    leaf = values.clone().requires_grad_()
    sum(spread(row) for row in leaf).backward()
    assert torch.allclose(torch.func.vmap(torch.func.grad(spread))(values), leaf.grad)
    assert torch.equal(sorted_last(values.bfloat16()), torch.sort(values.bfloat16(), -1).values)
    assert sorted_last(values.to("meta")).device.type == "meta"
