"""Samplers, and the quantiles they need."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from thunderstone import ArgumentError
from thunderstone_grpo.samplers import XRPO, Uniform, priorities, seeded_prompt
from thunderstone_grpo.student_t import central_probability, quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 255])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_quantiles_are_students(freedom, confidence):
    assert quantile(confidence, freedom) == pytest.approx(student.interval(confidence, freedom)[1], rel=1e-9)
    assert central_probability(1.3, freedom) == pytest.approx(2 * student.cdf(1.3, freedom) - 1, rel=1e-12)


def drawn_out(sampler, prompts, group_size, rate):
    """Let a sampler have its way with prompts that are solved at a rate each."""
    generator = torch.Generator().manual_seed(0)
    counts = sampler.first(prompts, group_size)
    groups = torch.repeat_interleave(torch.arange(prompts), torch.tensor(counts))
    rewards = (torch.rand(len(groups), generator=generator) < torch.tensor(rate)[groups]).float()
    rounds = 0
    while any(extra := sampler.more(rewards, groups, prompts, group_size)):
        more = torch.repeat_interleave(torch.arange(prompts), torch.tensor(extra))
        new = (torch.rand(len(more), generator=generator) < torch.tensor(rate)[more]).float()
        groups, rewards, rounds = torch.cat([groups, more]), torch.cat([rewards, new]), rounds + 1
    return torch.bincount(groups, minlength=prompts).tolist(), rounds


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(2, 9), st.integers(1, 3), st.floats(0.1, 1.0))
def test_the_total_is_always_the_same(prompts, group_size, stages, share):
    counts, rounds = drawn_out(XRPO(share=share, stages=stages), prompts, group_size, [0.5] * prompts)
    assert sum(counts) == prompts * group_size
    assert rounds <= stages
    assert min(counts) >= min(2, group_size)
    assert drawn_out(Uniform(), prompts, group_size, [0.5] * prompts) == ([group_size] * prompts, 0)


def test_completions_go_where_they_tell_more():
    counts, _ = drawn_out(XRPO(exploration=0.0), 3, 16, [0.0, 0.5, 1.0])
    assert counts[1] > 16 > counts[0] == counts[2] == 8


def test_priorities_are_the_formula():
    (found,) = priorities([4], [0.5], [6], 0.3, 0.95)
    widths = [student.interval(0.95, n - 1)[1] * 0.5 / math.sqrt(n) for n in (4, 5)]
    assert found == pytest.approx(widths[0] - widths[1] + 0.3 * math.sqrt(math.log(7) / 6))


def test_prompts_that_cannot_be_scored_do_not_stop_it():
    sampler, groups = XRPO(share=0.5, stages=1), torch.tensor([0, 0, 1, 1])
    rewards = torch.tensor([torch.nan, torch.nan, 1.0, 0.0])
    assert sum(sampler.more(rewards, groups, 2, 4)) == 4


def test_hopeless_prompts_are_shown_two_solved_ones():
    correct = torch.tensor([False, False, True, True, False, True, True, False])
    groups = torch.arange(4).repeat_interleave(2)
    chosen = XRPO().examples(correct, groups, 4, seed=3)
    assert chosen == XRPO().examples(correct, groups, 4, seed=3)
    (rows,) = chosen.values()
    assert list(chosen) == [0]
    assert len(rows) == 2
    assert all(correct[row] for row in rows)
    assert len({int(groups[row]) for row in rows}) == 2
    assert len({tuple(XRPO().examples(correct, groups, 4, seed=seed)[0]) for seed in range(30)}) > 3
    assert XRPO(seeding=False).examples(correct, groups, 4, 0) == {}
    assert XRPO().examples(torch.zeros(8, dtype=torch.bool), groups, 4, 0) == {}
    assert Uniform().examples(correct, groups, 4, 0) == {}


def test_examples_stand_before_the_prompt():
    assert seeded_prompt("3 + 3 =", [("1 + 1 =", " 2\n"), ("2 + 2 =", " 4")]) == "1 + 1 = 2\n\n2 + 2 = 4\n\n3 + 3 ="


@pytest.mark.parametrize(
    "arguments",
    [{"share": 0.0}, {"exploration": -1.0}, {"confidence": 1.0}, {"stages": 0}, {"seeding": 1}, {"shown": 0}],
)
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ArgumentError, match=next(iter(arguments))):
        XRPO(**arguments)
    with pytest.raises(ArgumentError, match="group_size=1"):
        XRPO().first(4, 1)
