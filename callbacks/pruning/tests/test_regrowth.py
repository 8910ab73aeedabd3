"""Connections that move."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderstone_pruning.masks import count
from thunderstone_pruning.regrowth import cosine, drop, grow, moved


def test_the_smallest_go_and_the_largest_gradients_come() -> None:
    masks = {"a": torch.tensor([True, True, True, False, False])}
    weights = {"a": torch.tensor([-0.1, 2.0, 0.5, 0.0, 0.0])}
    gradients = {"a": torch.tensor([0.2, 9.0, 9.0, -0.3, 0.1])}
    fewer = drop(masks, weights, {"a": 1})
    assert fewer["a"].tolist() == [False, True, True, False, False]
    assert grow(fewer, gradients, {"a": 1})["a"].tolist() == [False, True, True, True, False]
    # What was just dropped is a candidate like any other.
    assert grow(fewer, {"a": torch.tensor([0.4, 9.0, 9.0, -0.3, 0.1])}, {"a": 1})["a"].equal(masks["a"])


@given(st.integers(0, 100), st.floats(0, 0.99), st.floats(0.05, 1))
@settings(max_examples=50, deadline=None)
def test_every_layer_keeps_its_number(seed, fraction, density) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw() -> dict[str, torch.Tensor]:
        return {name: torch.randn(size, generator=generator) for name, size in {"a": (7, 3), "b": (5,)}.items()}

    masks = {name: value < density for name, value in draw().items()}
    weights = {name: value * masks[name] for name, value in draw().items()}
    numbers = moved(masks, fraction)
    fewer = drop(masks, weights, numbers)
    after = grow(fewer, draw(), numbers)
    for name in masks:
        kept = count(masks[name])
        assert numbers[name] == max(0, min(math.floor(fraction * kept + 1e-9), kept - 1))
        assert count(fewer[name]) == kept - numbers[name]
        assert count(after[name]) == kept
        assert not (fewer[name] & ~masks[name]).any()
        assert not (fewer[name] & ~after[name]).any()


def test_the_fraction_falls_along_a_cosine() -> None:
    assert cosine(0.5, 0) == 0.5
    assert math.isclose(cosine(0.5, 0.5), 0.25)
    assert math.isclose(cosine(0.5, 1), 0, abs_tol=1e-12)
    assert cosine(0.5, 2) == cosine(0.5, 1)
