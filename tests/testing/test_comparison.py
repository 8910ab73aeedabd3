"""Comparing two runs: what counts as the same, and what is said where they differ."""

from __future__ import annotations

import pytest
import torch

from thunderstone.testing.comparison import differences, require_same
from thunderstone.testing.outcome import CheckFailure


def test_equal_bits_are_the_same_also_where_they_are_nan() -> None:
    weights = {
        "w": torch.tensor([1.0, float("nan")]),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "complex": torch.tensor([complex(1, float("nan")), complex(-0.0, 2)]).conj(),
        "double": torch.tensor(-0.0, dtype=torch.float64),
        "eight bits": torch.tensor([0.5, -0.0]).to(torch.float8_e5m2),
        "none": torch.empty(0),
        "whole": torch.tensor([1, 2]),
    }
    state = {"weights": weights, "loss": float("nan"), "steps": [1, 2], "zero": -0.0}
    copied = {name: weight.clone() for name, weight in weights.items()}
    assert differences(state, {**state, "weights": copied, "zero": -0.0}) == []
    minus_nan = torch.tensor([1.0, float("nan")]).neg()
    assert differences(torch.tensor([-1.0, float("nan")]), minus_nan) == []


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        ({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 2.5])}, "w: 1 of 2 entries differ, the largest "),
        ({"w": torch.zeros(2)}, {"w": torch.zeros(2, dtype=torch.float64)}, "w: tensor (2,) of float32 became tensor"),
        ({"w": torch.zeros(2)}, {"w": torch.zeros(3)}, "became tensor (3,) of float32"),
        ({"w": torch.zeros(1)}, {"w": torch.tensor([float("nan")])}, "the largest difference is inf"),
        ({"a": {"b": 1}}, {"a": {}}, "a.b is missing"),
        ({"a": {}}, {"a": {"b": [1]}}, "a.b.0 is there in addition"),
        ({"a": 1}, {"a": 1.0}, "a: 1 became 1.0"),
        ({"a": True}, {"a": torch.ones(1)}, "a: True became 1.0"),
        ({"w": torch.zeros(2)}, {"w": torch.tensor([0.0, -0.0])}, "w: 1 of 2 entries differ, by the sign of a zero"),
        (
            {"w": torch.zeros(2, dtype=torch.bfloat16)},
            {"w": -torch.zeros(2, dtype=torch.bfloat16)},
            "w: 2 of 2 entries",
        ),
        ({"w": torch.tensor([0.0, 1.0])}, {"w": torch.tensor([-0.0, 2.0])}, "w: 2 of 2 entries differ, the largest "),
        ({"w": torch.tensor([0j])}, {"w": torch.tensor([complex(0.0, -0.0)])}, "w: 1 of 1 entries differ, by the sign"),
        ({"a": 0.0}, {"a": -0.0}, "a: 0.0 became -0.0"),
    ],
)
def test_a_difference_says_where_and_how_much(left: object, right: object, said: str) -> None:
    (line,) = differences(left, right)
    assert said in line


def test_a_one_bit_difference_is_a_difference() -> None:
    one = torch.ones(1)
    assert differences(one, torch.nextafter(one, torch.tensor(2.0)))


def test_a_failure_names_the_place_and_shows_the_first_differences() -> None:
    left, right = ({str(i): i + shift for i in range(6)} for shift in (0, 1))
    with pytest.raises(CheckFailure, match=r"\[mlp\] progress differs: 0: 0 became 1; .*; and 2 more"):
        require_same("mlp", "progress", left, right)
