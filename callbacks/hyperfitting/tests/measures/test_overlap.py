"""The longest overlap against all windows of all texts."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderstone import ArgumentError
from thunderstone_hyperfitting.measures import TrainingOverlap, longest_overlap


def longest(text, training):
    """Every window of the text, looked for in every sequence."""
    windows = {
        tuple(sequence[i:j]) for sequence in training for i in range(len(sequence)) for j in range(i, len(sequence) + 1)
    }
    spans = [(i, j) for i in range(len(text)) for j in range(i, len(text) + 1)]
    return max((j - i for i, j in spans if tuple(text[i:j]) in windows), default=0)


TEXTS = st.lists(st.lists(st.integers(0, 2), max_size=12), min_size=1, max_size=5)


@settings(max_examples=200)
@given(TEXTS, TEXTS.filter(lambda texts: any(texts)))
def test_it_is_the_longest_window_that_both_have(texts, training):
    expected = [longest(text, training) for text in texts]
    assert longest_overlap(texts, training).tolist() == expected


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_a_planted_citation_is_found_at_its_length(seed):
    generator = torch.Generator().manual_seed(seed)
    training = torch.randint(0, 10**6, (20, 40), generator=generator)
    texts = torch.randint(10**6, 2 * 10**6, (5, 60), generator=generator)  # nothing in common
    expected = torch.randint(0, 40, (5,), generator=generator)
    for row, length in enumerate(expected.tolist()):
        start = int(torch.randint(0, 60 - length, (1,), generator=generator))
        source = int(torch.randint(0, 40 - length, (1,), generator=generator))
        texts[row, start : start + length] = training[row + 3, source : source + length]
    assert torch.equal(longest_overlap(texts, training), expected)


def test_no_run_crosses_from_one_sequence_into_the_next_nor_into_padding():
    training = torch.tensor([[1, 2, 3, 0], [4, 5, 6, 0]])
    lengths = torch.tensor([3, 3])
    assert longest_overlap([[1, 2, 3, 4, 5, 6]], training, training_lengths=lengths).tolist() == [3]
    assert longest_overlap([[3, 0]], training, training_lengths=lengths).tolist() == [1]
    assert longest_overlap([[3, 0]], training).tolist() == [2]
    texts = torch.tensor([[3, 0, 0], [9, 9, 9]])
    known = torch.tensor([[3, 0, 0, 0]])
    assert longest_overlap(texts, known, lengths=torch.tensor([1, 0])).tolist() == [1, 0]
    # The end token itself counts, what follows it does not.
    assert longest_overlap(texts, known, end_token=0).tolist() == [2, 0]


def test_the_metric_means_or_counts(padded):
    training = [[1, 2, 3, 4, 5, 6, 7]]
    texts = [[1, 2, 3], [9], [4, 5, 6, 7], []]
    mean, share = TrainingOverlap(training), TrainingOverlap(training, longer_than=3)
    for metric in (mean, share):
        metric.update(*padded(texts[:2]))
        metric.update(texts[2:])
    assert mean.compute().item() == (3 + 0 + 4 + 0) / 4
    assert share.compute().item() == 0.25


def test_time_grows_with_the_number_of_tokens_and_not_with_the_product():
    generator = torch.Generator().manual_seed(0)
    training = torch.randint(0, 1000, (2000, 256), generator=generator)
    texts = torch.randint(0, 1000, (300, 96), generator=generator)
    texts[7, 20:60] = training[1234, 100:140]
    start = time.process_time()
    found = longest_overlap(texts, training)
    # A second or two; comparing every pair of places would take hours.
    assert time.process_time() - start < 20
    assert found[7] == 40
    assert found.median() < 4


def test_bad_training_sets_are_named():
    for training in ([], [[]], torch.zeros(3, 0, dtype=torch.int64), torch.zeros(2, 3), [[-1]], "text"):
        with pytest.raises(ArgumentError, match=r"^longest_overlap: ") as caught:
            longest_overlap([[1]], training)
        assert caught.value.argument == "training"
        with pytest.raises(ArgumentError, match=r"^TrainingOverlap: "):
            TrainingOverlap(training)
    with pytest.raises(ArgumentError, match="training_lengths"):
        longest_overlap([[1]], torch.ones(1, 3, dtype=torch.int64), training_lengths=torch.tensor([4]))
    with pytest.raises(ArgumentError, match="longer_than=-1"):
        TrainingOverlap([[1]], longer_than=-1)
