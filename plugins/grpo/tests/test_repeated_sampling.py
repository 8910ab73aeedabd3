"""pass@k and uplift by rank."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderstone import ArgumentError
from thunderstone_grpo.repeated_sampling import PassAtK, pass_at_k
from thunderstone_grpo.uplift import RankUplift, uplift_by_rank
from thunderstone_grpo.uplift_figure import draw


def exact(n, c, k):
    return 1 - Fraction(math.comb(n - c, k), math.comb(n, k))


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 60), st.data())
def test_it_is_the_ratio_of_binomials(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert float(pass_at_k(n, c, k)) == pytest.approx(float(exact(n, c, k)), rel=1e-13, abs=1e-300)


@pytest.mark.parametrize(("n", "c", "k"), [(10**6, 3, 4096), (10**6, 999_000, 2), (2**40, 1, 2), (20_000, 150, 64)])
def test_large_numbers_keep_their_digits(n, c, k):
    few, many = min(c, k), max(c, k)
    missed = Fraction(1)
    for j in range(few):
        missed *= 1 - Fraction(many, n - j)
    assert float(pass_at_k(n, c, k)) == pytest.approx(float(1 - missed), rel=1e-12)


def test_it_is_unbiased():
    """The mean over all numbers of right samples is the probability itself."""
    n, k, p = 9, 4, 0.17
    chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    mean = sum(chance * float(pass_at_k(n, c, k)) for c, chance in enumerate(chances))
    assert mean == pytest.approx(1 - (1 - p) ** k)


def test_shapes_broadcast_and_nonsense_is_refused():
    assert pass_at_k(torch.tensor([[4], [8]]), torch.tensor([0, 2, 4]), 2).shape == (2, 3)
    assert pass_at_k(torch.zeros(0), torch.zeros(0), 1).shape == (0,)
    with pytest.raises(ArgumentError, match=r"k=5.*problem with 4 samples"):
        pass_at_k(torch.tensor([8, 4]), 0, 5)
    with pytest.raises(ArgumentError, match="c=5"):
        pass_at_k(4, 5, 1)
    with pytest.raises(ArgumentError, match="k=0"):
        pass_at_k(4, 1, 0)


def test_the_metric_is_the_mean_over_problems_in_any_batches():
    correct = torch.rand(10, 8, generator=torch.Generator().manual_seed(0)) < 0.3
    whole, parts, merged = PassAtK(k=(1, 4, 8)), PassAtK(k=(1, 4, 8)), PassAtK(k=(1, 4, 8))
    whole.update(correct)
    parts.update(correct[:3])
    parts.update(correct[3:].flatten(), groups=8)
    # What adding up over ranks does.
    merged.totals = sum(_of(chunk).totals for chunk in correct.split(2))
    merged.problems = sum(_of(chunk).problems for chunk in correct.split(2))
    merged._update_count = 1
    wanted = {f"pass@{k}": sum(float(exact(8, int(row.sum()), k)) for row in correct) / 10 for k in (1, 4, 8)}
    for metric in (whole, parts, merged):
        assert {name: value.item() for name, value in metric.compute().items()} == pytest.approx(wanted)


def _of(correct):
    metric = PassAtK(k=(1, 4, 8))
    metric.update(correct)
    return metric


def test_samples_without_score_are_left_out():
    metric = PassAtK(k=(1, 2))
    correct = torch.tensor([[True, False], [True, True]])
    metric.update(correct, scorable=torch.tensor([[True, False], [True, True]]))
    assert metric.compute() == {"pass@1": 1.0, "pass@2": 1.0}
    assert metric.problems.tolist() == [2, 1]
    metric.reset()
    with pytest.raises(ArgumentError, match=r"k=1.*no problem"), pytest.warns(UserWarning, match="before the"):
        metric.compute()


@pytest.mark.parametrize("arguments", [{"k": ()}, {"k": 0}, {"k": (1, 2.5)}])
def test_bad_arguments_of_the_metric(arguments):
    with pytest.raises(ArgumentError, match="k="):
        PassAtK(**arguments)
    with pytest.raises(ArgumentError, match="correct="):
        PassAtK().update(torch.zeros(4, dtype=torch.bool))


def test_uplift_counts_right_answers_that_rose_by_their_rank():
    before = torch.tensor([[-3.0, -9.0], [-1.0, -1.0], [-2.0, -2.0], [-5.0, 0.0], [-4.0, 0.0], [-6.0, 0.0]])
    lengths = torch.tensor([1, 2, 2, 1, 1, 1])
    change = torch.tensor([[1.0, -9.0], [0.5, -0.4], [1.0, 1.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    correct = torch.tensor([True, True, False, True, True, True])
    found = uplift_by_rank(before, before + change, lengths, correct, 3)
    # Ranks by the mean: -3 (0), -1 (2), -2 (1); -5 (1), -4 (2), -6 (0).
    assert found.rose.tolist() == [1, 1, 1]
    assert found.count.tolist() == [2, 1, 2]
    assert found.share.tolist() == [0.5, 1.0, 0.5]
    total = found + RankUplift(torch.tensor([1, 0, 0, 2]), torch.tensor([1, 0, 0, 2]))
    assert total.rose.tolist() == [2, 1, 1, 2]
    assert total.count.tolist() == [3, 1, 2, 2]
    scorable = torch.tensor([True, True, False, True, True, True])
    assert uplift_by_rank(before, before, lengths, correct, 3, scorable=scorable).count.tolist() == [2, 2, 1]


def test_the_figure_shows_the_shares():
    one = RankUplift(torch.tensor([0, 3, 0]), torch.tensor([4, 4, 0]))
    axes = draw({"plain": one, "shaped": one + one}).axes[0]
    (line, _, _), *_ = axes.containers
    assert line.get_xdata().tolist() == [0, 1]
    assert line.get_ydata().tolist() == [0.0, 0.75]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["plain", "shaped"]
    assert draw(one).axes[0].get_legend() is None


def test_exported_names_are_no_modules_whichever_is_asked_for_first():
    import types

    import thunderstone_grpo

    for name in thunderstone_grpo.__all__:
        assert not isinstance(getattr(thunderstone_grpo, name), types.ModuleType), name
