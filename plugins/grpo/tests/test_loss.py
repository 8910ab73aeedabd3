"""The loss of tokens, and its aggregation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderstone import ArgumentError
from thunderstone_grpo.aggregation import aggregate
from thunderstone_grpo.log_probabilities import length_mask
from thunderstone_grpo.loss import PolicyLoss, clipped_surrogate, kl_estimate


def sample(rows=4, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    new, old, reference = (-2 * torch.rand(rows, width, generator=generator).double() - 0.1 for _ in range(3))
    entropies = torch.rand(rows, width, generator=generator).double()
    advantages = torch.randn(rows, generator=generator).double()
    lengths = torch.randint(0, width + 1, (rows,), generator=generator)
    lengths[0] = width
    return new, old, reference, entropies, advantages, lengths


def reference_loss(settings, new, old, reference, entropies, advantages, lengths):
    """Token by token, from the equations."""
    losses = [[0.0] * new.shape[1] for _ in range(len(new))]
    clipped = [[False] * new.shape[1] for _ in range(len(new))]
    low, high = settings.clip_low, settings.clip_low if settings.clip_high is None else settings.clip_high
    for i in range(len(new)):
        a = float(advantages[i])
        for t in range(int(lengths[i])):
            ratio = math.exp(float(new[i, t] - old[i, t]))
            objective = min(ratio * a, min(max(ratio, 1 - low), 1 + high) * a)
            clipped[i][t] = (ratio > 1 + high and a > 0) or (ratio < 1 - low and a < 0)
            if a < 0 and settings.clip_dual is not None:  # Ye et al. 2020, eq. 5
                clipped[i][t] |= objective < settings.clip_dual * a
                objective = max(objective, settings.clip_dual * a)
            d = float(new[i, t] - reference[i, t])
            kl = {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) + d - 1}[settings.kl]
            losses[i][t] = -objective + settings.kl_weight * kl - settings.entropy_weight * float(entropies[i, t])
    return torch.tensor(losses).double(), torch.tensor(clipped)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 1000),
    st.sampled_from(["k1", "k2", "k3"]),
    st.sampled_from([None, 0.28]),
    st.sampled_from([None, 1.5, 3.0]),
    st.sampled_from([0.0, 0.04]),
)
def test_every_token_has_the_loss_of_the_equations(seed, kl, high, dual, entropy_weight):
    loss = PolicyLoss(clip_high=high, clip_dual=dual, kl=kl, kl_weight=0.1, entropy_weight=entropy_weight)
    new, old, reference, entropies, advantages, lengths = sample(seed=seed)
    wanted, clipped = reference_loss(loss, new, old, reference, entropies, advantages, lengths)
    mask = length_mask(lengths, new.shape[1])
    found = loss(new, old, advantages, mask, reference=reference, entropies=entropies)
    torch.testing.assert_close(found.loss, wanted, atol=1e-12, rtol=1e-7)
    assert bool((found.clipped == clipped).all())


def test_clipped_tokens_and_padding_have_no_gradient():
    new, old, *_, advantages, lengths = sample()
    mask = length_mask(lengths, new.shape[1])
    old[~mask] = -1e4  # a ratio that overflows
    new.requires_grad_()
    found = PolicyLoss()(new, old, advantages, mask)
    found.loss.sum().backward()
    assert bool(new.grad.isfinite().all())
    assert bool((new.grad[~mask] == 0).all())
    assert bool((new.grad[found.clipped] == 0).all())
    assert bool((new.grad[mask & ~found.clipped] != 0).all())
    assert bool(found.clipped.any())


def test_at_the_old_policy_the_gradient_is_that_of_the_score_function():
    new, *_, advantages, lengths = sample()
    mask = length_mask(lengths, new.shape[1])
    new.requires_grad_()
    PolicyLoss()(new, new.detach(), advantages, mask).loss.sum().backward()
    torch.testing.assert_close(new.grad, -(advantages.unsqueeze(1) * mask))


@pytest.mark.parametrize("estimate", ["k1", "k2", "k3"])
def test_estimates_of_the_divergence_are_what_they_are_said_to_be(estimate):
    policy = torch.tensor([0.2, 0.3, 0.5]).double()
    reference = torch.tensor([0.25, 0.35, 0.4]).double()
    exact = float((policy * (policy / reference).log()).sum())
    values = kl_estimate(policy.log(), reference.log(), estimate)
    mean = float((policy * values).sum())
    if estimate == "k2":
        assert mean == pytest.approx(exact, rel=0.1)
        assert mean != pytest.approx(exact, rel=1e-6)
    else:
        assert mean == pytest.approx(exact)
    if estimate != "k1":
        assert bool((values >= 0).all())


def test_k3_keeps_its_digits_near_zero():
    difference = torch.tensor([1e-6])
    found = float(kl_estimate(difference, torch.zeros(1), "k3"))
    # A plain float32 exponential would give back the rounding of 1.
    assert found == pytest.approx(5e-13, abs=2e-13)


def test_the_surrogate_never_promises_more_than_the_ratio_does():
    ratio, advantage = torch.rand(1000) * 3, torch.randn(1000)
    loss = clipped_surrogate(ratio, advantage, 0.2, 0.28)
    assert bool((loss >= -(ratio * advantage) - 1e-6).all())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"clip_low": 1.5}, "clip_low=1.5"),
        ({"clip_high": -0.1}, "clip_high=-0.1"),
        ({"clip_dual": 1.2}, "clip_dual=1.2"),
        ({"kl": "k4"}, "kl='k4'"),
        ({"kl_weight": -1.0}, "kl_weight=-1"),
        ({"entropy_weight": math.nan}, "entropy_weight=nan"),
    ],
)
def test_bad_arguments_are_refused(arguments, match):
    with pytest.raises(ArgumentError, match=match):
        PolicyLoss(**arguments)


def test_what_a_term_needs_is_asked_for():
    new, old, *_, advantages, lengths = sample()
    mask = length_mask(lengths, new.shape[1])
    with pytest.raises(ArgumentError, match=r"kl_weight=0\.1 needs one"):
        PolicyLoss(kl_weight=0.1)(new, old, advantages, mask)
    with pytest.raises(ArgumentError, match=r"entropy_weight=0\.1 needs them"):
        PolicyLoss(entropy_weight=0.1)(new, old, advantages, mask)


def aggregation_by_hand(loss, lengths, how, longest):
    rows = [row[:length].tolist() for row, length in zip(loss, lengths.tolist(), strict=True)]
    if how == "grpo":
        return sum(sum(row) / len(row) for row in rows if row) / len(rows)
    total = sum(sum(row) for row in rows)
    return total / sum(map(len, rows)) if how == "dapo" else total / (len(rows) * longest)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.sampled_from(["grpo", "dapo", "dr_grpo"]), st.integers(1, 4))
def test_parts_of_a_step_add_up_to_the_whole(seed, how, size):
    loss, *_, lengths = sample(rows=8, seed=seed)
    mask = length_mask(lengths, loss.shape[1])
    counts = {"completions": 8, "tokens": int(lengths.sum()), "max_length": 9}
    wanted = aggregation_by_hand(loss, lengths, how, 9)
    parts = zip(loss.split(size), mask.split(size), strict=True)
    assert sum(float(aggregate(*part, how, **counts)) for part in parts) == pytest.approx(wanted)


def test_nothing_counts_for_nothing():
    loss, mask = torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    for how in ("grpo", "dapo", "dr_grpo"):
        assert aggregate(loss, mask, how, completions=0, tokens=0, max_length=3) == 0
    with pytest.raises(ArgumentError, match="how='mean'"):
        aggregate(loss, mask, "mean", completions=1, tokens=1, max_length=3)
    with pytest.raises(ArgumentError, match="tokens=-1"):
        aggregate(loss, mask, "dapo", completions=1, tokens=-1, max_length=3)
