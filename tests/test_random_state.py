"""Snapshots of the global generators."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderstone.random_state import RandomState

DRAWS = {
    "none": lambda: None,
    "uniform": lambda: np.random.rand(),
    "one Gaussian of a pair": lambda: np.random.randn(),
    "a full turn of the twister": lambda: np.random.randint(0, 2**31, size=1248),
    "seed": lambda: np.random.seed(7),
    "Python": random.random,
    "torch": lambda: torch.rand(()),
}


def upcoming():
    """What the generators would give next, the second Gaussian of NumPy's pair included; moves them."""
    return (
        [random.random(), random.gauss(0, 1)],
        [np.random.randn(), np.random.randn(), np.random.rand()],
        torch.rand(2).tolist(),
    )


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@settings(max_examples=60, deadline=None)
@given(
    before=st.lists(st.sampled_from(sorted(DRAWS)), max_size=4),
    between=st.lists(st.sampled_from(sorted(DRAWS)), max_size=4),
    other=st.booleans(),
)
def test_a_restored_snapshot_gives_the_same_draws(before, between, other):
    for name in before:
        DRAWS[name]()
    snapshot = RandomState()
    expected = upcoming()
    snapshot.restore()
    for name in between:
        DRAWS[name]()
    if other:
        RandomState()
    snapshot.restore()
    assert upcoming() == expected
    snapshot.restore()
    again = RandomState()
    DRAWS["uniform"]()
    again.restore()
    assert upcoming() == expected


def test_a_second_gaussian_used_up_is_noticed():
    np.random.randn()  # its twin waits outside of the twister's memory
    snapshot = RandomState()
    twin = np.random.randn()
    snapshot.restore()
    assert np.random.randn() == twin


def test_a_snapshot_goes_through_a_checkpoint():
    state = RandomState().state_dict()
    expected = upcoming()
    RandomState.from_state_dict(state).restore()
    assert upcoming() == expected
