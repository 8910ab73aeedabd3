"""Shapers: against loops written from the papers, and what must hold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderstone import ArgumentError
from thunderstone_grpo.advantages import Centred, FixedScale, GroupZScore, LeaveOneOut
from thunderstone_grpo.completions import ScoredCompletions
from thunderstone_grpo.shapers import (
    BackwardCorrection,
    Novelty,
    ProcessGate,
    Unlikeliness,
    backward_correction,
    novelty,
    process_gate,
    unlikeliness,
)

NAN = float("nan")


def drawn(seed, sizes=(4, 1, 5), width=4):
    """Rewards 0, 1 or NaN in groups of different sizes, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    ids = ids[torch.randperm(len(ids), generator=generator)]
    rewards = torch.tensor([0.0, 1.0, 1.0, NAN])[torch.randint(4, (len(ids),), generator=generator)].double()
    log_probabilities = -torch.rand(len(ids), width, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, width + 1, (len(ids),), generator=generator)
    return rewards, log_probabilities, lengths, ids


def mean_of(row, length):
    return float(row[:length].sum()) / length


def unlikeliness_by_hand(rewards, log_probabilities, lengths, ids, beta):
    shaped = rewards.tolist()
    for group in set(ids.tolist()):
        rows = [i for i in range(len(ids)) if ids[i] == group and rewards[i] == rewards[i]]
        right = [i for i in rows if rewards[i] > 0]
        if not 0 < len(right) < len(rows):
            continue
        # The paper's indexing: rank 1 is the likeliest … G the least likely, multiplier 1 - beta (G - rank) / G.
        rows.sort(key=lambda i: -mean_of(log_probabilities[i], int(lengths[i])))
        for rank, i in enumerate(rows, 1):
            if i in right:
                shaped[i] *= 1 - beta * (len(rows) - rank) / len(rows)
    return torch.tensor(shaped, dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.25, 1.0]))
def test_unlikeliness_is_the_formula(seed, beta):
    rewards, *rest = drawn(seed)
    wanted = unlikeliness_by_hand(rewards, *rest, beta)
    torch.testing.assert_close(unlikeliness(rewards, *rest, beta=beta), wanted, equal_nan=True)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_unlikeliness_keeps_right_above_wrong_and_order_by_likelihood(seed):
    rewards, log_probabilities, lengths, ids = drawn(seed)
    shaped = unlikeliness(rewards, log_probabilities, lengths, ids, beta=0.9)
    right = rewards == 1
    assert bool((shaped[right] > 0).all())
    assert bool((shaped[right] <= 1).all())
    assert bool((shaped[rewards == 0] == 0).all())
    assert bool((shaped.isnan() == rewards.isnan()).all())
    means = torch.tensor([mean_of(row, int(length)) for row, length in zip(log_probabilities, lengths, strict=True)])
    for i in range(len(ids)):
        for j in range(len(ids)):
            if ids[i] == ids[j] and right[i] and right[j] and means[i] < means[j]:
                assert shaped[i] >= shaped[j]


def test_neutral_unlikeliness_returns_the_same_bits():
    rewards, *rest = drawn(3)
    found = unlikeliness(rewards, *rest, beta=0.0)
    assert torch.equal(found.nan_to_num(-1), rewards.nan_to_num(-1))


def test_ties_are_broken_by_the_seed_and_not_by_position():
    rewards = torch.tensor([1.0, 1.0, 1.0, 0.0])
    log_probabilities, lengths = torch.zeros(4, 1), torch.ones(4).long()
    outcomes = [unlikeliness(rewards, log_probabilities, lengths, 4, seed=seed).tolist() for seed in range(200)]
    assert unlikeliness(rewards, log_probabilities, lengths, 4, seed=7).tolist() == outcomes[7]
    means = torch.tensor(outcomes)[:, :3].mean(0)
    # Each rank 0 … 3 is equally likely in each place: the mean multiplier is 1 - 0.25 · 1.5 / 4, within four errors.
    torch.testing.assert_close(means, torch.full((3,), 1 - 0.25 * 1.5 / 4), atol=4 * 0.07 / math.sqrt(200), rtol=0)
    for row in outcomes:
        assert len(set(row[:3])) == 3


def test_right_is_what_the_caller_says():
    rewards = torch.tensor([0.2, 1.2, 0.2])
    log_probabilities, lengths = torch.tensor([[-3.0], [-1.0], [-2.0]]), torch.ones(3).long()
    found = unlikeliness(rewards, log_probabilities, lengths, 3, correct=rewards > 0.5, beta=0.5)
    assert found.tolist() == pytest.approx([0.2, 1.2 * (1 - 0.5 * 2 / 3), 0.2])


def novelty_by_hand(advantages, log_probabilities, lengths, ids, correct, scorable, weight, cap):
    raised = advantages.tolist()
    for i in range(len(ids)):
        rows = [j for j in range(len(ids)) if ids[j] == ids[i] and scorable[j]]
        if correct[i] and raised[i] > 0:
            means = {j: mean_of(log_probabilities[j], int(lengths[j])) for j in rows}
            eta = math.exp(means[i] - sum(means.values()) / len(means))
            raised[i] += min(max(weight * (1 - eta), 0), cap * raised[i])
    return torch.tensor(raised, dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_novelty_is_the_formula_and_raises_right_answers_alone(seed):
    rewards, log_probabilities, lengths, ids = drawn(seed)
    scorable, correct = ~rewards.isnan(), rewards == 1
    advantages = GroupZScore()(rewards, ScoredCompletions(rewards, log_probabilities, lengths, ids, correct))
    arguments = {"correct": correct, "scorable": scorable, "weight": 2.5, "cap": 0.5}
    found = novelty(advantages, log_probabilities, lengths, ids, **arguments)
    torch.testing.assert_close(found, novelty_by_hand(advantages, log_probabilities, lengths, ids, **arguments))
    assert bool((found[~correct] == advantages[~correct]).all())
    assert bool((found >= advantages).all())
    assert bool((found[correct] <= 1.5 * advantages[correct] + 1e-12).all())


def test_neutral_novelty_returns_the_same_bits():
    rewards, log_probabilities, lengths, ids = drawn(5)
    completions = ScoredCompletions(rewards, log_probabilities, lengths, ids, rewards == 1)
    advantages = Centred()(rewards, completions)
    assert torch.equal(Novelty(weight=0.0)(advantages, completions), advantages)
    assert torch.equal(Novelty(cap=0.0)(advantages, completions), advantages)


def test_process_counts_where_the_outcome_is_right():
    outcome = torch.tensor([1.0, 0.0, 0.0, NAN, 1.0])
    process = torch.tensor([0.5, 0.9, NAN, 0.5, NAN])
    form = torch.tensor([0.1, 0.1, 0.0, 0.1, 0.1])
    found = process_gate(outcome, process, form)
    assert found.tolist() == pytest.approx([1.6, 0.1, 0.0, NAN, NAN], nan_ok=True)
    assert process_gate(outcome[:2], process[:2]).tolist() == [1.5, 0.0]
    parts = {"outcome": outcome, "judge": process}
    completions = ScoredCompletions(outcome, torch.zeros(5, 1), torch.ones(5).long(), 5, outcome == 1, parts)
    assert ProcessGate(process="judge")(outcome + process, completions)[:3].tolist() == [1.5, 0.0, 0.0]
    with pytest.raises(ArgumentError, match=r"process='process'.*Known names|process='process'.*Did you mean"):
        ProcessGate()(outcome, completions)


@pytest.mark.parametrize(("false_positives", "false_negatives"), [(0.0, 0.0), (0.1, 0.3), (0.4, 0.2)])
def test_the_backward_correction_is_the_exact_reward_on_average(false_positives, false_negatives):
    said = backward_correction(torch.tensor([1.0, 0.0], dtype=torch.float64), false_positives, false_negatives)
    of_right = torch.tensor([1 - false_negatives, false_negatives], dtype=torch.float64)
    of_wrong = torch.tensor([false_positives, 1 - false_positives], dtype=torch.float64)
    assert float((of_right * said).sum()) == pytest.approx(1.0)
    assert float((of_wrong * said).sum()) == pytest.approx(0.0, abs=1e-12)


def test_a_z_score_cancels_the_correction_and_a_fixed_scale_does_not():
    """The algebra that `check_combination` refuses with, in numbers."""
    rewards, log_probabilities, lengths, ids = drawn(1)
    completions = ScoredCompletions(rewards, log_probabilities, lengths, ids, rewards == 1)
    corrected = BackwardCorrection(0.1, 0.3)(rewards, completions)
    for advantage, factor in ((GroupZScore(), 1.0), (Centred(), 1 / 0.6), (LeaveOneOut(), 1 / 0.6)):
        torch.testing.assert_close(
            advantage(corrected, completions), factor * advantage(rewards, completions), rtol=1e-3, atol=1e-9
        )
    plain, fixed = (FixedScale()(values, completions) for values in (rewards, corrected))
    assert not torch.allclose(fixed, plain / 0.6)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: Unlikeliness(beta=1.1), r"Unlikeliness: beta=1\.1"),
        (lambda: Unlikeliness(beta=-0.1), r"Unlikeliness: beta=-0\.1"),
        (lambda: Unlikeliness(beta="0.5"), "Unlikeliness: beta='0.5'"),
        (lambda: Novelty(weight=-1), "Novelty: weight=-1"),
        (lambda: Novelty(cap=-1), "Novelty: cap=-1"),
        (lambda: BackwardCorrection(0.5, 0.5), r"false_negatives=0\.5.*says nothing"),
        (lambda: BackwardCorrection(1.0, 0.0), r"false_positives=1\.0"),
    ],
)
def test_bad_arguments_are_refused(build, match):
    with pytest.raises(ArgumentError, match=match):
        build()
