"""Generators that objects hold are found, and go on where they were."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from thunderstone.resume.generators import generator_state, held_generators, set_generator_state
from thunderstone.resume.portable import is_portable

MAKERS: dict[str, tuple[Callable[[int], Any], Callable[[Any], Any]]] = {
    "torch": (lambda seed: torch.Generator().manual_seed(seed), lambda g: torch.rand(3, generator=g).tolist()),
    "PCG64": (np.random.default_rng, lambda g: [*g.normal(size=3), int(g.integers(9, dtype=np.int32))]),
    "Philox": (lambda seed: np.random.Generator(np.random.Philox(seed)), lambda g: g.random(3).tolist()),
    "SFC64": (lambda seed: np.random.Generator(np.random.SFC64(seed)), lambda g: g.random(3).tolist()),
    "RandomState": (np.random.RandomState, lambda g: g.randn(3).tolist()),
    "Random": (random.Random, lambda g: [g.gauss(0, 1), g.random()]),
}


@pytest.mark.parametrize(("make", "draw"), MAKERS.values(), ids=MAKERS.keys())
def test_a_generator_goes_on_from_a_stored_state(make: Callable[[int], Any], draw: Callable[[Any], Any]) -> None:
    one, other = make(1), make(2)
    draw(one)
    state = generator_state(one)
    assert is_portable(state)
    stored = io.BytesIO()
    torch.save(state, stored)
    stored.seek(0)
    set_generator_state(other, torch.load(stored, weights_only=True))
    assert draw(other) == draw(one)
    assert draw(other) == draw(one)


class Part:
    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)


def test_generators_are_found_through_attributes_and_short_containers() -> None:
    own, nested, listed = torch.Generator(), np.random.default_rng(1), random.Random(1)
    loader = Part(sampler=Part(generator=own), dataset=Part(dataset=Part(rng=nested), transforms=[Part(r=listed)]))
    loader.dataset.back = loader
    loader.dataset.large = list(range(10_000))
    found = held_generators({"sampler": loader.sampler, "dataset": loader.dataset})
    assert found == {
        "sampler.generator": own,
        "dataset.dataset.rng": nested,
        "dataset.transforms.0.r": listed,
    }
