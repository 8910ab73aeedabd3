"""Strategies by name, and which of them go together."""

from __future__ import annotations

import pytest
import torch

import thunderstone
from thunderstone import ArgumentError, UnknownNameError
from thunderstone_grpo.advantages import Centred, FixedScale, ForwardCorrection, GroupZScore, LeaveOneOut
from thunderstone_grpo.completions import ScoredCompletions
from thunderstone_grpo.samplers import Uniform
from thunderstone_grpo.shapers import BackwardCorrection, Novelty, ProcessGate, Unlikeliness
from thunderstone_grpo.strategies import build, check_combination, shaped_advantages

NAN = float("nan")
KINDS = ("grpo.advantage", "grpo.reward_shaper", "grpo.sampler")
REQUIRED = {
    "forward_correction": {"false_negatives": 0.1},
    "backward_correction": {"false_positives": 0.1, "false_negatives": 0.1},
}


def four(rewards=(1.0, 0.0, 1.0, NAN)):
    values = torch.tensor(rewards)
    log_probabilities = torch.tensor([[-1.0], [-2.0], [-3.0], [-4.0]])
    return ScoredCompletions(values, log_probabilities, torch.ones(4).long(), 4, values > 0)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in thunderstone.strategies(kind)])
def test_every_declared_strategy_is_built_from_text(kind, name):
    arguments = REQUIRED.get(name, {})
    text = f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})" if arguments else name
    found = build(kind, text, "GRPO", "strategy")
    assert found == thunderstone.strategy(kind, name)(**arguments)
    assert hash(found) == hash(build(kind, text, "GRPO", "strategy"))
    if kind != "grpo.sampler" and name != "process_gate":
        completions = four()
        values = found(completions.rewards, completions)
        assert values.shape == (4,)
        assert bool(values[:3].isfinite().all())


def test_what_is_given_as_an_object_is_taken_as_it_is():
    shaper = Unlikeliness(beta=0.5)
    assert build("grpo.reward_shaper", shaper, "GRPO", "shapers") is shaper
    assert build("grpo.reward_shaper", Unlikeliness, "GRPO", "shapers") == Unlikeliness()
    assert build("grpo.reward_shaper", "unlikeliness(beta=0.5)", "GRPO", "shapers") == shaper
    sampler = Uniform()
    assert build("grpo.sampler", sampler, "GRPO", "sampler") is sampler


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        ("unlikelyness", UnknownNameError, "unlikeliness"),
        ("unlikeliness(gamma=1)", ArgumentError, "gamma"),
        ("unlikeliness(0.5)", ArgumentError, "name with named arguments"),
        ("unlikeliness(beta=__import__('os'))", ArgumentError, "cannot be read"),
        ("unlikeliness(", ArgumentError, "cannot be read"),
        ("unlikeliness(beta=2)", ArgumentError, "beta=2"),
        ("backward_correction", ArgumentError, "false_positives"),
        (3, ArgumentError, "a int is no grpo.reward_shaper"),
    ],
)
def test_what_cannot_be_built_is_said(value, error, match):
    with pytest.raises(error, match=match):
        build("grpo.reward_shaper", value, "GRPO", "shapers")


@pytest.mark.parametrize("advantage", [GroupZScore(), Centred(), LeaveOneOut()])
def test_corrections_that_cancel_are_refused_with_the_algebra(advantage):
    correction = BackwardCorrection(0.1, 0.2)
    algebra = r"\(r - mean\) / std" if isinstance(advantage, GroupZScore) else r"a \(r - mean\)"
    for shapers in ([correction], [Unlikeliness(), correction], [correction, Novelty()]):
        with pytest.raises(ArgumentError, match=rf"a r \+ b.*{algebra}.*fixed_scale"):
            check_combination("GRPO", shapers, advantage, 8)
    # Before a shaper that is not affine the correction has an effect.
    check_combination("GRPO", [correction, Unlikeliness()], advantage, 8)
    check_combination("GRPO", [correction], FixedScale(), 8)
    check_combination("GRPO", [Unlikeliness(), Novelty()], advantage, 8)


def test_a_third_party_advantage_says_what_it_removes():
    class Mine:
        removes = frozenset({"shift"})

        def __call__(self, rewards, completions):
            return rewards - rewards.nanmean()

    with pytest.raises(ArgumentError, match="Mine"):
        check_combination("GRPO", [BackwardCorrection(0.1, 0.2)], Mine(), 8)
    check_combination("GRPO", [BackwardCorrection(0.1, 0.2)], lambda rewards, completions: rewards, 1)


@pytest.mark.parametrize("advantage", [GroupZScore(), Centred(), LeaveOneOut()])
def test_a_group_of_one_compares_nothing(advantage):
    with pytest.raises(ArgumentError, match="group_size=1"):
        check_combination("GRPO", [], advantage, 1)
    check_combination("GRPO", [], FixedScale(), 1)


def test_other_combinations_without_sense_are_refused():
    with pytest.raises(ArgumentError, match="put it first"):
        check_combination("GRPO", [Unlikeliness(), ProcessGate()], GroupZScore(), 4)
    with pytest.raises(ArgumentError, match="defined for rewards 0 and 1"):
        check_combination("GRPO", [Unlikeliness()], ForwardCorrection(0.1), 4)

    def odd(values, completions):
        return values

    odd.stage = "loss"
    with pytest.raises(ArgumentError, match="stage is 'loss'"):
        check_combination("GRPO", [odd], GroupZScore(), 4)


def test_stages_follow_one_another():
    completions = four()
    shaped, advantages = shaped_advantages(completions, [Novelty(), Unlikeliness(beta=0.6)], Centred())
    # Of three scorable ones the likeliest has rank 2 and the least likely rank 0.
    assert shaped.tolist() == pytest.approx([1 - 0.6 * 2 / 3, 0.0, 1.0, NAN], nan_ok=True)
    mean = (0.6 + 1.0) / 3
    assert advantages[0].item() == pytest.approx(0.6 - mean)  # likelier than the mean: no bonus
    assert advantages[2].item() == pytest.approx((1 - mean) * 1.5)
    assert advantages[3] == 0


def test_a_shaper_cannot_score_what_has_no_score():
    def everything(values, completions):
        return torch.ones_like(values)

    shaped, advantages = shaped_advantages(four(), [everything], FixedScale())
    assert shaped.isnan().tolist() == [False, False, False, True]
    assert advantages.tolist() == [1.0, 1.0, 1.0, 0.0]


def test_strategies_that_return_nonsense_are_named():
    def short(values, completions):
        return values[:2]

    def endless(values, completions):
        return values / 0

    with pytest.raises(ArgumentError, match=r"short: result=\(2,\)"):
        shaped_advantages(four(), [short], Centred())
    with pytest.raises(ArgumentError, match="endless: result='inf'"):
        shaped_advantages(four(), [], endless)
