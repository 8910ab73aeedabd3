"""Self-BLEU against BLEU written out for one text and its references."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderstone import ArgumentError
from thunderstone_hyperfitting.measures import SelfBLEU, self_bleu


def grams(text, n):
    return Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))


def bleu(text, references, n, smoothing):
    """Papineni et al. 2002, with NLTK's smoothing method 1."""
    precisions = []
    for size in range(1, n + 1):
        counts = grams(text, size)
        most = Counter()
        for reference in references:
            most |= grams(reference, size)
        matched = sum(min(count, most[gram]) for gram, count in counts.items())
        if not matched and size == 1:
            return 0.0
        precisions.append((matched or smoothing) / sum(counts.values()))
    if min(precisions) == 0:
        return 0.0
    nearest = min((len(reference) for reference in references), key=lambda r: (abs(r - len(text)), r))
    penalty = 1.0 if len(text) > nearest else math.exp(1 - nearest / len(text))
    return min(1.0, penalty * math.exp(sum(math.log(p) for p in precisions) / n))


@settings(max_examples=200)
@given(
    st.lists(st.lists(st.integers(0, 3), max_size=10), min_size=2, max_size=6),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.1]),
)
def test_each_text_has_its_bleu_against_the_others(texts, n, smoothing):
    expected = [
        bleu(text, texts[:i] + texts[i + 1 :], n, smoothing) if len(text) >= n else math.nan
        for i, text in enumerate(texts)
    ]
    found = self_bleu(texts, n=n, smoothing=smoothing, per_text=True)
    assert found.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7, nan_ok=True)


def test_it_is_torchmetrics_bleu_where_that_smooths_nothing():
    from torchmetrics.functional.text import bleu_score

    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(0, 3, (6, 40), generator=generator).tolist()
    words = [" ".join(map(str, text)) for text in texts]
    expected = [bleu_score([word], [words[:i] + words[i + 1 :]]).item() for i, word in enumerate(words)]
    assert self_bleu(texts, per_text=True).tolist() == pytest.approx(expected, rel=1e-5)


def test_alike_is_1_and_different_is_0():
    assert self_bleu([[1, 2, 3, 4, 5]] * 3).item() == 1.0
    assert self_bleu([[1, 2, 3, 4], [5, 6, 7, 8]]).item() == 0.0


def test_a_text_twice_as_often_is_more_alike():
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(0, 50, (12, 30), generator=generator)
    assert self_bleu(texts) < self_bleu(torch.cat([texts, texts[:6]])) < self_bleu(torch.cat([texts, texts]))


def test_batches_of_the_metric_add_up_to_the_function(padded):
    texts = [[1, 2, 1, 2, 1], [1, 2, 1, 2, 4], [], [1], [9, 1, 2, 1, 2]]
    metric = SelfBLEU(n=3)
    metric.update(*padded(texts[:2]))
    metric.update(*padded(texts[2:4]))
    metric.update(texts[4:])
    torch.testing.assert_close(metric.compute(), self_bleu(texts, n=3))


def test_one_text_no_text_and_short_texts_are_said():
    with pytest.raises(ArgumentError, match="no other to compare it with"):
        self_bleu([[1, 2, 3, 4]])
    with pytest.raises(ArgumentError, match="no text has 4 tokens"):
        self_bleu([[1, 2, 3], [1]])
    with pytest.raises(ArgumentError, match="smoothing=-1"):
        self_bleu([[1], [1]], smoothing=-1)
    with pytest.raises(ArgumentError, match="call update first"), pytest.warns(UserWarning, match="before"):
        SelfBLEU().compute()
