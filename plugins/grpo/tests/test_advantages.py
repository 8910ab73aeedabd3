"""Advantages: against arithmetic by hand, and what must hold for all of them."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderstone import ArgumentError
from thunderstone_grpo.advantages import (
    Centred,
    FixedScale,
    ForwardCorrection,
    GroupZScore,
    LeaveOneOut,
    centred,
    forward_weights,
    group_z_score,
    leave_one_out,
)
from thunderstone_grpo.completions import ScoredCompletions, group_ids, has_spread

NAN = float("nan")
COMPARING = [GroupZScore(), Centred(), LeaveOneOut()]
grouped = st.lists(
    st.lists(st.one_of(st.integers(-3, 3).map(float), st.just(NAN)), min_size=1, max_size=6), min_size=1, max_size=4
)


def completions_of(rewards, groups):
    count = len(rewards)
    return ScoredCompletions(rewards, torch.zeros(count, 1), torch.ones(count).long(), groups, rewards > 0)


def laid_out(groups):
    rewards = torch.tensor([value for group in groups for value in group]).double()
    ids = torch.tensor([number for number, group in enumerate(groups) for _ in group])
    return rewards, ids


def by_hand(group, kind):
    seen = [value for value in group if value == value]
    result = []
    for value in group:
        if value != value or len(seen) < 2:
            result.append(0.0)
        elif kind is group_z_score:
            result.append((value - statistics.mean(seen)) / (statistics.stdev(seen) + 1e-4))
        elif kind is centred:
            result.append(value - statistics.mean(seen))
        else:
            result.append(value - (sum(seen) - value) / (len(seen) - 1))
    return result


@settings(deadline=None, max_examples=60)
@given(grouped, st.sampled_from([group_z_score, centred, leave_one_out]))
def test_each_is_its_formula_over_the_scorable_ones(groups, kind):
    rewards, ids = laid_out(groups)
    wanted = [value for group in groups for value in by_hand(group, kind)]
    assert kind(rewards, ids).tolist() == pytest.approx(wanted)


@settings(deadline=None, max_examples=40)
@given(grouped, st.sampled_from(COMPARING), st.randoms())
def test_unscorable_completions_change_nothing_and_order_neither(groups, advantage, random):
    rewards, ids = laid_out(groups)
    found = advantage(rewards, completions_of(rewards, ids))
    keep = ~rewards.isnan()
    if keep.any():
        torch.testing.assert_close(found[keep], advantage(rewards[keep], completions_of(rewards[keep], ids[keep])))
    assert bool((found[~keep] == 0).all())
    order = list(range(len(rewards)))
    random.shuffle(order)
    torch.testing.assert_close(advantage(rewards[order], completions_of(rewards[order], ids[order])), found[order])


@settings(deadline=None, max_examples=40)
@given(grouped, st.sampled_from(COMPARING), st.floats(-5, 5), st.floats(0.1, 5))
def test_what_is_said_to_be_removed_is(groups, advantage, shift, scale):
    rewards, ids = laid_out(groups)
    changed = scale * rewards + shift
    found, after = (advantage(values, completions_of(rewards, ids)) for values in (rewards, changed))
    factor = 1.0 if "scale" in advantage.removes else scale
    # eps beside the spread is why the z-score does not lose the scale to the last digit.
    torch.testing.assert_close(after, factor * found, rtol=5e-3, atol=1e-6)


def test_a_group_without_spread_has_no_advantage():
    for advantage in COMPARING:
        rewards = torch.full((4,), 0.1)
        assert bool((advantage(rewards, completions_of(rewards, 4)) == 0).all())


def test_leave_one_out_is_unbiased_where_centring_shrinks():
    """The mean of advantage times score over all pairs of draws: exactly the gradient, or half of it."""
    p, rewards = torch.tensor(0.3).double(), torch.tensor([1.0, 5.0]).double()
    scores = torch.tensor([1 / p, -1 / (1 - p)])
    chance = torch.stack([p, 1 - p])
    exact = float((chance * rewards * scores).sum())
    for kind, factor in ((leave_one_out, 1.0), (centred, 0.5)):
        mean = 0.0
        for first in (0, 1):
            for second in (0, 1):
                pair = [first, second]
                mean += float(chance[first] * chance[second] * (kind(rewards[pair], 2) * scores[pair]).mean())
        assert mean == pytest.approx(factor * exact)


def test_fixed_scale_looks_at_no_group():
    rewards = torch.tensor([1.0, NAN, 0.0])
    found = FixedScale(scale=2.0, baseline=0.5)(rewards, completions_of(rewards, 3))
    assert found.tolist() == [0.25, 0.0, -0.25]


@pytest.mark.parametrize(("false_positives", "false_negatives"), [(0.0, 0.0), (0.1, 0.3), (0.4, 0.2)])
def test_forward_weights_point_where_an_exact_verifier_does(false_positives, false_negatives):
    said = torch.tensor([1.0, 0.0]).double()
    weights = forward_weights(said, false_negatives)
    of_right = torch.tensor([1 - false_negatives, false_negatives], dtype=torch.float64)
    of_wrong = torch.tensor([false_positives, 1 - false_positives], dtype=torch.float64)
    assert float((of_right * weights).sum()) == pytest.approx(0.0, abs=1e-12)
    assert float((of_wrong * weights).sum()) == pytest.approx(false_positives + false_negatives - 1)


def test_forward_weights_take_verdicts_only():
    with pytest.raises(ArgumentError, match=r"rewards=0\.5.*0 and 1 alone"):
        ForwardCorrection(0.1)(torch.tensor([0.0, 0.5]), completions_of(torch.tensor([0.0, 0.5]), 2))
    assert forward_weights(torch.tensor([NAN, 1.0]), 0.25).tolist() == [0.0, 0.25]
    for share in (1.0, -0.1, "0.1"):
        with pytest.raises(ArgumentError, match="false_negatives"):
            ForwardCorrection(share)


def test_groups_are_sizes_or_ids():
    assert group_ids(2, 4).tolist() == [0, 0, 1, 1]
    for wrong in (3, 0, True, torch.tensor([0, 1]), torch.tensor([0, 0, 1, -1]), torch.zeros(4)):
        with pytest.raises(ArgumentError, match="groups"):
            group_ids(wrong, 4)


def test_informative_groups_are_found_by_raw_rewards():
    rewards = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, NAN, 1.0])
    found = completions_of(rewards, torch.arange(4).repeat_interleave(2))
    assert found.informative.tolist() == [False, True, False, False]
    assert has_spread(rewards, 2).tolist() == [False, True, False, False]
    assert found.correct.tolist() == [True, True, False, True, False, False, False, True]
    with pytest.raises(ArgumentError, match="lengths"):
        ScoredCompletions(rewards, torch.zeros(8, 1), torch.ones(7).long(), 2, rewards > 0)
