"""Masks with exact counts, against sorting in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone_pruning.masks import count, global_masks, kept_after, layer_masks
from thunderstone_pruning.selection import kth_largest

NUMBERS = {
    torch.float16: st.floats(width=16, allow_nan=False, allow_infinity=False),
    torch.bfloat16: st.integers(-300, 300).map(lambda value: value / 8),
    torch.float32: st.floats(width=32, allow_nan=False, allow_infinity=False),
    torch.float64: st.floats(allow_nan=False, allow_infinity=False),
}


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Tensor]:
    """Scores of one to four layers of one type: any numbers, or few different ones, so that there are ties."""
    dtype = draw(st.sampled_from(list(NUMBERS)))
    numbers = draw(st.sampled_from([NUMBERS[dtype], st.integers(-2, 2).map(float), st.sampled_from([0.0, -0.0, 1.0])]))
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True))
    return {name: torch.tensor(draw(st.lists(numbers, min_size=1, max_size=12)), dtype=dtype) for name in names}


@st.composite
def partly_pruned(draw: st.DrawFn) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Scores, what remains of each layer, and how many to keep."""
    scores = draw(layers())
    remaining = {
        name: torch.tensor(draw(st.lists(st.booleans(), min_size=len(score), max_size=len(score))))
        for name, score in scores.items()
    }
    left = sum(count(mask) for mask in remaining.values())
    return scores, remaining, draw(st.integers(0, left))


def by_sorting(scores: dict[str, Tensor], remaining: dict[str, Tensor], keep: int) -> dict[str, Tensor]:
    """Reference: all candidates in a list, sorted by falling score, then by the layer's name and by position."""
    candidates = [
        (-score, name, position)
        for name in scores
        for position, score in enumerate(scores[name].double().tolist())
        if remaining[name][position]
    ]
    masks = {name: torch.zeros(len(score), dtype=torch.bool) for name, score in scores.items()}
    for _, name, position in sorted(candidates)[:keep]:
        masks[name][position] = True
    return masks


def unless_empty(scores: dict[str, Tensor], keep: int, remaining: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Global masks, or None where they would leave a layer empty, which has to be refused."""
    expected = by_sorting(scores, remaining, keep)
    if all(expected[name].any() or not remaining[name].any() for name in scores):
        return global_masks(scores, keep, remaining)
    with pytest.raises(ArgumentError, match="no weight left"):
        global_masks(scores, keep, remaining)
    return None


@given(partly_pruned())
@settings(max_examples=150, deadline=None)
def test_global_masks_are_those_of_sorting(case) -> None:
    scores, remaining, keep = case
    expected = by_sorting(scores, remaining, keep)
    found = unless_empty(scores, keep, remaining)
    if found is not None:
        assert {name: mask.tolist() for name, mask in found.items()} == {n: m.tolist() for n, m in expected.items()}


@given(partly_pruned())
@settings(max_examples=100, deadline=None)
def test_keeping_one_weight_a_layer_changes_as_little_as_it_can(case) -> None:
    scores, remaining, keep = case
    alive = [name for name in scores if remaining[name].any()]
    if keep < len(alive):
        return
    found = global_masks(scores, keep, remaining, empty="keep_one")
    assert sum(map(count, found.values())) == keep
    assert all(found[name].any() for name in alive)
    assert not any((found[name] & ~remaining[name]).any() for name in scores)
    # Each weight that stays in place of a larger one is the only one of its layer.
    gone = [scores[name][remaining[name] & ~found[name]] for name in alive]
    smallest_out = max((values.max().item() for values in gone if values.numel()), default=-math.inf)
    for name in alive:
        if scores[name][found[name]].min().item() < smallest_out:
            assert count(found[name]) == 1
            assert scores[name][found[name]].item() == scores[name][remaining[name]].max().item()


@given(layers(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_layers_changes_nothing(scores, random) -> None:
    keep = sum(len(score) for score in scores.values()) // 2
    names = list(scores)
    random.shuffle(names)
    remaining = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    one = unless_empty(scores, keep, remaining)
    two = unless_empty({name: scores[name] for name in names}, keep, {name: remaining[name] for name in names})
    assert (one is None) == (two is None)
    if one is not None and two is not None:
        assert list(two) == names
        assert all(one[name].equal(two[name]) for name in names)


@given(st.integers(1, 6), st.floats(0.05, 0.4), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_rounds_are_nested_and_their_counts_exact(rounds, fraction, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(17, 5, generator=generator) for name in "ab"}
    masks, left = None, 170
    for _ in range(rounds):
        keep = kept_after(left, fraction)
        after = global_masks(scores, keep, masks, empty="keep_one")
        assert sum(map(count, after.values())) == keep == left - round(fraction * left)
        if masks is not None:
            assert not any((after[name] & ~masks[name]).any() for name in masks)
        masks, left = after, keep


def test_a_fifth_a_round() -> None:
    """0.8, 0.64, 0.512 exactly, where the number of weights allows it."""
    generator = torch.Generator().manual_seed(0)
    scores = {"a": torch.rand(600, generator=generator), "b": torch.rand(20, 20, generator=generator)}
    masks, densities = None, []
    for _ in range(3):
        left = 1000 if masks is None else sum(map(count, masks.values()))
        masks = global_masks(scores, kept_after(left, 0.2), masks)
        densities.append(sum(map(count, masks.values())) / 1000)
    assert densities == [0.8, 0.64, 0.512]


@given(partly_pruned())
@settings(max_examples=60, deadline=None)
def test_layer_masks_are_global_masks_of_one_layer(case) -> None:
    scores, remaining, _ = case
    keep = {name: count(mask) // 2 for name, mask in remaining.items()}
    found = layer_masks(scores, keep, remaining)
    for name, score in scores.items():
        expected = by_sorting({name: score}, {name: remaining[name]}, keep[name])[name]
        assert found[name].equal(expected)


def test_many_weights_in_several_pieces() -> None:
    """Beyond the size up to which a tensor is looked at in one piece, with ties across the border."""
    generator = torch.Generator().manual_seed(0)
    score = torch.randint(0, 1000, (700, 900), generator=generator).float()
    keep = 123_456
    (mask,) = global_masks({"w": score}, keep).values()
    order = torch.sort(score.flatten(), descending=True, stable=True).indices[:keep]
    assert mask.shape == score.shape
    assert mask.flatten().nonzero().flatten().equal(order.sort().values)


@pytest.mark.parametrize("empty", ["refuse", "keep_one"])
def test_the_memory_format_changes_nothing(empty) -> None:
    """Channels last, with ties, and with a layer that would be empty."""
    generator = torch.Generator().manual_seed(0)
    scores = {"a": torch.randint(0, 4, (3, 4, 2, 2), generator=generator).float() + 1}
    if empty == "keep_one":
        scores["b"] = torch.zeros(2, 3, 2, 2)
    other = {name: score.to(memory_format=torch.channels_last) for name, score in scores.items()}
    one, two = global_masks(scores, 20, empty=empty), global_masks(other, 20, empty=empty)
    assert all(one[name].equal(two[name]) for name in scores)
    assert sum(map(count, two.values())) == 20


def test_types_may_differ_by_layer() -> None:
    scores = {"a": torch.tensor([1.0, 3.0], dtype=torch.bfloat16), "b": torch.tensor([2.0, 0.5], dtype=torch.float64)}
    masks = global_masks(scores, 2)
    assert masks["a"].tolist() == [False, True]
    assert masks["b"].tolist() == [True, False]


def test_the_threshold_counts_what_is_above_and_what_is_equal() -> None:
    found = kth_largest([torch.tensor([-1.0, -math.inf, 4.0]), torch.tensor([-1.0, -1.0, 7.0])], 4)
    assert (found.value.item(), found.above, found.equal) == (-1.0, 2, 3)
    assert kth_largest([torch.tensor([0.0, -0.0, 0.0])], 2).equal == 3


def test_masks_share_no_memory_with_what_they_were_made_from() -> None:
    remaining = {"a": torch.tensor([True, True])}
    masks = global_masks({"a": torch.ones(2)}, 2, remaining)
    masks["a"].fill_(False)
    assert remaining["a"].all()


A = {"a": torch.tensor([3.0, 2.0, 1.0]), "b": torch.tensor([0.5, 0.4])}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 2}, "global_masks: layer='b' is not allowed: it would have no weight left when 2 weights stay"),
        ({"keep": 1, "empty": "keep_one"}, "keep=1 is not allowed: there are 2 layers, and empty='keep_one' leaves"),
        ({"keep": 6}, "keep=6 is not allowed: scores has 5 remaining weights"),
        ({"keep": -1}, "keep=-1"),
        ({"keep": 3, "empty": "ignore"}, "empty='ignore'"),
        ({"keep": 3, "remaining": {"a": torch.ones(3).bool()}}, "remaining='b'.*different layers"),
        ({"keep": 3, "remaining": {**A}}, r"remaining\['a'\]='torch.float32 of shape \(3,\)'"),
    ],
)
def test_what_cannot_be(arguments, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        global_masks(A, **arguments)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_scores_without_an_order(bad) -> None:
    scores = {"a": A["a"], "b": torch.tensor([1.0, bad])}
    with pytest.raises(ArgumentError, match=r"Tester: scores\[.b.\]=.* is not allowed: such scores have no order"):
        global_masks(scores, 3, who="Tester")
    # Where the weight is gone already, its score does not matter.
    masks = global_masks(scores, 4, {"a": torch.ones(3).bool(), "b": torch.tensor([True, False])})
    assert masks["b"].tolist() == [True, False]


def test_whole_numbers_are_no_scores() -> None:
    with pytest.raises(ArgumentError, match=r"scores\['a'\]=torch.int64"):
        global_masks({"a": torch.arange(3)}, 2)
    with pytest.raises(ArgumentError, match="there is no layer in it"):
        layer_masks({}, {})
