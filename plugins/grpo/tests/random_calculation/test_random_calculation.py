"""RandomCalculation: right answers, no leakage, the same problem for the same index."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from thunderstone import ArgumentError
from thunderstone_grpo.random_calculation import CharacterTokenizer, GradedAnswer, RandomCalculation, graded_reward
from thunderstone_grpo.rewards.arithmetic import ArithmeticVerifier, evaluate


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**12), st.integers(1, 6), st.sampled_from(["train", "test"]))
def test_answers_and_every_step_of_a_solution_are_right(index, level, split):
    problem = RandomCalculation(10**12 + 1, levels=(level,), split=split)[index]
    right = Fraction(problem["answer"])
    assert evaluate(problem["prompt"].removesuffix(" =")) == right
    steps = problem["solution"].split("; ")
    assert len(steps) == level
    for step in steps:
        left, _, value = step.partition(" = ")
        assert evaluate(left) == Fraction(value.strip("()"))
    assert ArithmeticVerifier()([problem["solution"]], answer=[problem["answer"]]) == [1.0]
    assert GradedAnswer()([problem["solution"]], answer=[problem["answer"]]) == [1.0]


def test_a_problem_follows_from_seed_split_and_index():
    data, again = RandomCalculation(100), RandomCalculation(10**9)
    assert [data[i] for i in range(100)] == [again[i] for i in range(100)]
    assert data[-1] == data[99]
    assert data[0] != RandomCalculation(100, seed=1)[0]
    assert len(again) == 10**9
    with pytest.raises(IndexError, match="none of index 100"):
        data[100]


def test_workers_change_nothing():
    data = RandomCalculation(12, levels=(1,))
    plain, worked = (
        [text for batch in DataLoader(data, 4, num_workers=workers) for text in batch["prompt"]] for workers in (0, 1)
    )
    assert plain == worked == [data[i]["prompt"] for i in range(12)]


def test_no_expression_is_in_two_splits_whatever_the_seed():
    small = {"levels": (1, 2), "largest": 6, "operands": ("integer",), "operations": "+×"}
    seen: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        for seed in (0, 1):
            data = RandomCalculation(300, split=split, seed=seed, **small)
            seen.setdefault(split, set()).update(data.expression(i).key for i in range(300))
    assert all(seen.values())
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_the_order_of_a_sum_is_no_way_out_of_a_split():
    keys = {}
    data = RandomCalculation(1000, levels=(1,), largest=9, operands=("integer",), operations="+")
    for i in range(1000):
        expression = data.expression(i)
        keys.setdefault(expression.key, set()).add(expression.text)
    assert all(len({tuple(sorted(text.split(" + "))) for text in texts}) == 1 for texts in keys.values())
    assert any(len(texts) == 2 for texts in keys.values())


def test_operands_operations_and_levels_are_those_asked_for():
    data = RandomCalculation(300, levels=(2,), largest=12, operands=("square", "fraction"), operations="÷-")
    text = " ".join(data[i]["prompt"] for i in range(300))
    assert "²" in text
    assert "/" in text
    assert not set("³+×") & set(text)
    assert max(map(int, "".join(c if c.isdecimal() else " " for c in text).split())) == 12


@pytest.mark.parametrize(
    ("found", "right", "reward"),
    [(7, 7, 1.0), (7.5, 7, 1 - 0.25 - 0.25 / 7), (9, 7, 0.5 - 1 / 7), (100, 7, 0.0), (0, 0, 1.0), (0.5, 0, 0.25)],
)
def test_the_graded_reward_is_the_formula(found, right, reward):
    assert graded_reward(found, right) == pytest.approx(reward, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_the_graded_reward_is_between_0_and_1(found, right):
    assert 0 <= graded_reward(found, right) <= 1
    assert graded_reward(right, right) == 1


def test_graded_answers_without_a_number_or_a_right_answer():
    assert GradedAnswer()(["no idea", "3", "4"], answer=["3", "x", "9/2"]) == [0.0, None, pytest.approx(0.75 - 0.5 / 9)]


def test_characters_are_tokens_and_back():
    tokenizer = CharacterTokenizer()
    problem = RandomCalculation(3, levels=(3,))[1]
    text = problem["prompt"] + " " + problem["solution"]
    ids = tokenizer.encode(text, add_special_tokens=True)
    assert ids[-1] == tokenizer.eos_token_id
    assert max(ids) < len(tokenizer)
    assert tokenizer.decode(ids) == tokenizer.decode(torch.tensor([*ids, 0])) == text
    assert tokenizer.decode([0, 2, 1], skip_special_tokens=False) == "<pad>0<end>"
    with pytest.raises(ArgumentError, match="'x' is not in the alphabet"):
        tokenizer.encode("1x")
    with pytest.raises(ArgumentError, match="twice"):
        CharacterTokenizer("aa")


@pytest.mark.parametrize(
    "arguments",
    [
        {"length": 0},
        {"levels": ()},
        {"levels": (0,)},
        {"split": "dev"},
        {"largest": 0},
        {"operands": ("root",)},
        {"operations": "%"},
        {"seed": -1},
    ],
)
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ArgumentError, match=next(iter(arguments))):
        RandomCalculation(**{"length": 10, **arguments})


def test_too_few_expressions_for_a_split_are_said():
    data = RandomCalculation(5, levels=(1,), largest=1, operands=("integer",), operations="+", split="test")
    with pytest.raises(ArgumentError, match="too few of them"):
        data[0]
