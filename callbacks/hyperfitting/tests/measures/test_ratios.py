"""Type-token ratio, distinct-n and repetition-n against their definitions, written out token by token."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from thunderstone import ArgumentError
from thunderstone_hyperfitting.measures import (
    DistinctN,
    RepetitionN,
    TypeTokenRatio,
    distinct_n,
    repetition_n,
    type_token_ratio,
)

TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=6)


def grams(text, n):
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def shares(texts, n):
    return [len(set(grams(text, n))) / len(grams(text, n)) if len(text) >= n else math.nan for text in texts]


def mean(values):
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept)


@given(TEXTS, st.integers(1, 4))
def test_they_are_their_definitions(texts, n):
    assume(any(len(text) >= n for text in texts))
    pool = [gram for text in texts for gram in grams(text, n)]
    assert distinct_n(texts, n=n).item() == pytest.approx(len(set(pool)) / len(pool), rel=1e-6)
    assert distinct_n(texts, n=n, pooled=False).item() == pytest.approx(mean(shares(texts, n)), rel=1e-6)
    expected = 1 - mean(shares(texts, n))
    assert repetition_n(texts, n=n).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    if n == 1:
        assert type_token_ratio(texts).item() == pytest.approx(mean(shares(texts, 1)), rel=1e-6)
        alone = type_token_ratio(texts, per_text=True).tolist()
        assert alone == pytest.approx(shares(texts, 1), rel=1e-6, nan_ok=True)


@given(TEXTS, st.permutations(range(4)), st.integers(1, 3))
def test_names_of_tokens_order_of_texts_and_padding_count_for_nothing(texts, names, n):
    assume(any(len(text) >= n for text in texts))
    width = max(map(len, texts))
    lengths = torch.tensor([len(text) for text in texts])
    renamed = [[names[token] * 10**9 for token in text] for text in texts]
    for pad in (0, 3, -100):
        tokens = torch.tensor([text + [pad] * (width - len(text)) for text in renamed])
        for measure in (distinct_n, repetition_n):
            expected = measure(texts[::-1], n=n)
            torch.testing.assert_close(measure(tokens, n=n, lengths=lengths), expected)
        if n == 1:
            torch.testing.assert_close(type_token_ratio(tokens, lengths=lengths), type_token_ratio(texts))


@given(st.lists(st.lists(st.integers(1, 4), max_size=8), min_size=1, max_size=4), st.booleans())
def test_an_end_token_says_the_same_as_lengths(texts, several):
    ended = [[*text, 0] for text in texts]
    width = max(map(len, ended)) + 3
    # What follows the first end token may hold anything, further end tokens too.
    tokens = torch.tensor([text + ([9, 0, 2, 0] * 4)[: width - len(text)] for text in ended])
    lengths = torch.tensor([len(text) for text in ended])
    end_token = (7, 0) if several else 0
    for measure in (type_token_ratio, distinct_n, repetition_n):
        if measure is not type_token_ratio and int(lengths.max()) < 2:
            continue
        assert torch.equal(measure(tokens, end_token=end_token), measure(tokens, lengths=lengths))
        assert torch.equal(measure(tokens.tolist(), end_token=end_token), measure(ended))


def test_padding_after_an_end_token_does_not_make_a_text_poorer():
    text = torch.tensor([[5, 6, 7, 0, 0, 0, 0, 0]])
    assert type_token_ratio(text, end_token=0).item() == 1.0
    assert type_token_ratio(text).item() == 0.5  # what counting the padding would give


def test_texts_that_repeat_more_are_less_diverse():
    generator = torch.Generator().manual_seed(0)
    free = torch.randint(0, 500, (20, 96), generator=generator)
    loops = free[:, :6].repeat(1, 16)
    assert type_token_ratio(free) > 0.9 > 0.1 > type_token_ratio(loops)
    assert repetition_n(loops, n=2) > 0.9 > 0.1 > repetition_n(free, n=2)
    assert distinct_n(loops) < 0.1 < 0.9 < distinct_n(free)


@pytest.mark.parametrize(
    ("metric", "function"),
    [
        (TypeTokenRatio(), type_token_ratio),
        (RepetitionN(n=3), lambda texts: repetition_n(texts, n=3)),
        (DistinctN(n=2), lambda texts: distinct_n(texts, n=2)),
        (DistinctN(n=2, pooled=False), lambda texts: distinct_n(texts, n=2, pooled=False)),
    ],
)
def test_batches_of_a_metric_add_up_to_the_function(metric, function, padded):
    texts = [[1, 2, 1, 2, 1], [4, 4, 4, 4], [], [1], [9, 8, 7, 6, 5], [1, 2, 3, 1, 2, 3]]
    metric.update(*padded(texts[:2]))
    metric.update(*padded(texts[2:4]))  # none of these may count
    metric.update(texts[4:])
    torch.testing.assert_close(metric.compute(), function(texts))
    metric.reset()
    torch.testing.assert_close(metric(texts[:2]), function(texts[:2]))
    torch.testing.assert_close(metric.compute(), function(texts[:2]))


@pytest.mark.parametrize("n", [2, 3])
def test_no_text_long_enough_is_said(n):
    for function in (distinct_n, repetition_n):
        with pytest.raises(ArgumentError, match=f"n={n} is not allowed: no text has {n} tokens.*smaller n"):
            function([[1], []], n=n)
    for metric in (DistinctN(n=n), RepetitionN(n=n)):
        metric.update([[1], []])
        with pytest.raises(ArgumentError, match=f"no text has {n} tokens"):
            metric.compute()


def test_empty_generations_are_left_out_and_nothing_else_is_said_so():
    assert type_token_ratio([[], [3, 3]]).item() == 0.5
    with pytest.raises(ArgumentError, match="every text is empty"):
        type_token_ratio([[], []])
    with pytest.raises(ArgumentError, match="every text is empty"):
        type_token_ratio(torch.zeros(2, 0, dtype=torch.int64))


TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        ("tokens", {"tokens": []}),
        ("tokens", {"tokens": "text"}),
        ("tokens", {"tokens": ["text"]}),
        ("tokens", {"tokens": 3}),
        ("tokens", {"tokens": torch.zeros(2, 3)}),
        ("tokens", {"tokens": torch.zeros(3, dtype=torch.int64)}),
        ("tokens", {"tokens": [[1.5]]}),
        ("tokens", {"tokens": [[1, -100]]}),
        ("tokens", {"tokens": torch.tensor([[1, -100]])}),
        ("lengths", {"tokens": TOKENS, "lengths": torch.tensor([3, 4])}),
        ("lengths", {"tokens": TOKENS, "lengths": torch.tensor([-1, 3])}),
        ("lengths", {"tokens": TOKENS, "lengths": torch.tensor([3])}),
        ("lengths", {"tokens": TOKENS, "lengths": torch.tensor([1.0, 2.0])}),
        ("lengths", {"tokens": [[1]], "lengths": torch.tensor([1])}),
        ("end_token", {"tokens": TOKENS, "lengths": torch.tensor([3, 3]), "end_token": 3}),
        ("end_token", {"tokens": TOKENS, "end_token": 0.5}),
        ("end_token", {"tokens": TOKENS, "end_token": ()}),
    ],
)
@pytest.mark.parametrize("measure", [type_token_ratio, distinct_n, repetition_n])
def test_bad_texts_are_named(measure, argument, arguments):
    with pytest.raises(ArgumentError, match=rf"^{measure.__name__}: .*HINT") as caught:
        measure(**arguments)
    assert caught.value.argument == argument


@pytest.mark.parametrize("n", [0, -1, 1.5, "2"])
def test_a_bad_n_is_named(n):
    for call in (lambda: distinct_n(TOKENS, n=n), lambda: repetition_n(TOKENS, n=n), lambda: DistinctN(n=n)):
        with pytest.raises(ArgumentError, match="n="):
            call()
