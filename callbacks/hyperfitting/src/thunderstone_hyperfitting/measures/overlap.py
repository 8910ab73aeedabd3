"""The longest run of tokens that a text shares with the training set."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone_hyperfitting.measures.texts import Texts, Tokens, checked_texts

Integers = npt.NDArray[np.int64]
Levels = list[tuple[Integers, Integers]]

# Ids are whole numbers from 0. The two differ: no match goes beyond the end of a text or of a training sequence.
_TEXT_END, _TRAINING_END = -1, -2


def longest_overlap(
    tokens: Tokens,
    training: Tokens,
    *,
    lengths: Tensor | None = None,
    end_token: int | tuple[int, ...] | None = None,
    training_lengths: Tensor | None = None,
) -> Tensor:
    """The longest run of consecutive tokens of each text that also stands in one of the training sequences.

    Carlsson et al. 2024 (arXiv 2412.04318) find that fewer than 2% of hyperfitted texts share more than 10
    tokens with their training data.

    The suffixes of the texts are sorted by prefix doubling (Manber and Myers 1993), and each suffix of the training set
    is looked up between them, so that the longest match of every place of a text is with a neighbour: for S tokens of
    texts, T of training and a longest text of L, O((S + T) log S log L), and no product of S and T. With given texts
    the time grows with T. Memory: about 8 (log L + 4) bytes for each token.

    Args:
        tokens: Ids (N, L), or N lists of ids.
        training: Ids (M, T), or M lists of ids.
        lengths: (N,) tokens of each row; what follows is padding.
        end_token: Instead of lengths: the first of these in a text or a training sequence is its last token.
        training_lengths: (M,) tokens of each training sequence.

    Returns:
        (N,) int64, on the device of `tokens`; 0 for a text without a token.

    Raises:
        ArgumentError: Tokens and lengths do not fit, or the training set has no token.

    >>> longest_overlap([[1, 2, 3, 9], [7, 7]], [[0, 1, 2, 3], [3, 9]])
    tensor([3, 0])
    """
    who = "longest_overlap"
    texts = checked_texts(who, tokens, lengths, None if lengths is not None else end_token)
    known = training_texts(who, training, training_lengths, None if training_lengths is not None else end_token)
    return overlaps(texts, known)


def training_texts(who: str, training: Any, lengths: Any, end_token: Any = None) -> Texts:
    """The training set without padding, or ArgumentError where it has no token."""
    texts = checked_texts(who, training, lengths, end_token, "training", "training_lengths")
    if not texts.ids.numel():
        raise ArgumentError(who, "training", "nothing", "it has no token", "pass the sequences that were trained on")
    return texts


def overlaps(texts: Texts, training: Texts) -> Tensor:
    """(N,) int64: the longest run of each text that a training sequence has too."""
    device = texts.ids.device
    levels = _windows(_separated(texts, _TEXT_END), _separated(training, _TRAINING_END))
    windows, places = (codes // 2 for codes in levels[-1])
    among_texts = [(own, own) for own, _ in levels]
    # Of each of the sorted windows one place where it stands.
    number = int(windows.max()) + 1
    example = np.empty(number, dtype=np.int64)
    example[windows] = np.arange(len(windows))
    longest = np.zeros(number, dtype=np.int64)
    # The training suffix right below a window, or right above it, matches it longest.
    for above in (0, 1):
        neighbour = places - above
        inside = np.flatnonzero((neighbour >= 0) & (neighbour < number))
        nearest = np.full(number, -1, dtype=np.int64)
        np.maximum.at(nearest, neighbour[inside], _shared(levels, example[neighbour[inside]], inside))
        # Between that suffix and a window other windows may lie, of which `source` is the one next to the suffix.
        order = np.arange(number)[:: -1 if above else 1]
        source = np.maximum.accumulate(np.where(nearest[order] >= 0, np.arange(number), -1))
        order, source = order[source >= 0], order[source[source >= 0]]
        matched = np.minimum(nearest[source], _shared(among_texts, example[order], example[source]))
        longest[order] = np.maximum(longest[order], matched)
    # Each text is followed by its end, which matches nothing.
    counts = texts.lengths.cpu().numpy() + 1
    return torch.from_numpy(np.maximum.reduceat(longest[windows], np.cumsum(counts) - counts)).to(device)


def _separated(texts: Texts, end: int) -> Integers:
    """The tokens with an end after each text."""
    return np.insert(texts.ids.cpu().numpy(), texts.lengths.cumsum(0).cpu().numpy(), end)


def _windows(texts: Integers, training: Integers) -> Levels:
    """For windows of 1, 2, 4, … tokens from each place of the texts and of the training set, where they lie in order.

    The texts' different windows of a width are numbered in lexicographic order. 2 k + 1 stands for the k-th of them,
    and 2 k for a training window that lies right below it and is equal to none. What lies beyond the end are ends. The
    last width is the first of which no training window stands in a text: at most twice the longest text.
    """
    values, numbers = np.unique(texts, return_inverse=True)
    levels = [(2 * numbers + 1, _looked_up(values, training))]
    width = 1
    while True:
        own, known = levels[-1]
        alive = np.flatnonzero(known & 1)
        if not len(alive):
            return levels
        codes = 2 * len(values) + 1
        values, numbers = np.unique(own * codes + _further(own, np.arange(len(own)), width), return_inverse=True)
        # Where its first half stands in no text, a window lies where that half does.
        following = 2 * np.searchsorted(values, codes * np.arange(codes))[known]
        following[alive] = _looked_up(values, known[alive] * codes + _further(known, alive, width))
        levels.append((2 * numbers + 1, following))
        width *= 2


def _looked_up(values: Integers, keys: Integers) -> Integers:
    """2 k + 1 where a key is the k-th of some sorted values, 2 k where it lies right below that one."""
    codes: Integers = np.searchsorted(values, keys)
    known = values[np.minimum(codes, len(values) - 1)] == keys
    codes = 2 * codes + known
    return codes


def _further(codes: Integers, places: Integers, by: int | Integers) -> Integers:
    """The codes so many places further on. The last one is an end's, as are all that would follow."""
    found: Integers = codes[np.minimum(places + by, len(codes) - 1)]
    return found


def _shared(levels: Levels, first: Integers, second: Integers) -> Integers:
    """How many tokens what begins at `first` in the one and at `second` in the other has in common."""
    shared = np.zeros(len(first), dtype=np.int64)
    for level in reversed(range(len(levels))):
        own, known = levels[level]
        # Even codes equal none, and a window that stands in no text begins no longer one that does.
        alive = np.flatnonzero(known[second] & 1)
        so_far = shared[alive]
        equal = _further(own, first[alive], so_far) == _further(known, second[alive], so_far)
        shared[alive[equal]] += 1 << level
    return shared
