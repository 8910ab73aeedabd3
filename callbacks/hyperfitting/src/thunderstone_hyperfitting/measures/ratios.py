"""Shares of tokens and n-grams that are different from one another: how diverse texts are, each and together."""

from __future__ import annotations

from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.arguments import flag, whole
from thunderstone_hyperfitting.measures.ngrams import ngrams
from thunderstone_hyperfitting.measures.texts import Texts, Tokens, checked_texts

_N = "2 for pairs of tokens"


def type_token_ratio(
    tokens: Tokens,
    *,
    lengths: Tensor | None = None,
    end_token: int | tuple[int, ...] | None = None,
    per_text: bool = False,
) -> Tensor:
    r"""Different tokens of a text by its tokens, the mean over texts.

    .. math:: \frac{1}{N}\sum_i \frac{|\{x_{i,1}, \dots, x_{i,T_i}\}|}{T_i}

    Carlsson et al. 2024 (arXiv 2412.04318) take it over 96 generated tokens. It falls with the length: only
    texts of like length compare. Their code counts the padding after an end token as text; here it never counts.

    Args:
        tokens: Ids (N, L), or N lists of ids.
        lengths: (N,) tokens of each row, e.g. `Generation.lengths`; what follows is padding.
        end_token: Instead of `lengths`: the first of these in a text is its last token, and counts as one.
        per_text: Return (N,), NaN for texts without a token, instead of the mean over all others.

    Returns:
        0-d in (0, 1], or (N,).

    Raises:
        ArgumentError: Tokens and lengths do not fit, or every text is empty.

    >>> import torch
    >>> type_token_ratio(torch.tensor([[5, 6, 5, 6], [5, 9, 0, 0]]), lengths=torch.tensor([4, 2]))
    tensor(0.7500)
    """
    who = "type_token_ratio"
    ratios = distinct_ratios(checked_texts(who, tokens, lengths, end_token), 1)
    return ratios if per_text else mean_over_texts(who, ratios, 1)


def distinct_n(
    tokens: Tokens,
    *,
    n: int = 2,
    lengths: Tensor | None = None,
    end_token: int | tuple[int, ...] | None = None,
    pooled: bool = True,
) -> Tensor:
    """Different n-grams by all n-grams, over the texts together (Li et al. 2016, arXiv 1510.03055).

    Li et al. divide by the number of tokens; as has become usual the number of n-grams stands here, so that 1 means
    that no n-gram occurs twice. It falls with the number of texts: only as many texts of like length compare.

    Args:
        tokens: Ids (N, L), or N lists of ids.
        n: Tokens of an n-gram.
        lengths: (N,) tokens of each row; what follows is padding.
        end_token: Instead of `lengths`: the first of these in a text is its last token.
        pooled: False takes the share within each text and the mean over texts with at least `n` tokens.

    Returns:
        0-d in (0, 1].

    Raises:
        ArgumentError: Tokens and lengths do not fit, or no text has `n` tokens.

    >>> distinct_n([[1, 2, 3], [1, 2, 4]], n=2)
    tensor(0.7500)
    """
    who = "distinct_n"
    size = whole(who, "n", n, _N)
    texts = checked_texts(who, tokens, lengths, end_token)
    return (
        pooled_ratio(who, texts, size)
        if flag(who, "pooled", pooled, "use True or False")
        else (mean_over_texts(who, distinct_ratios(texts, size), size))
    )


def repetition_n(
    tokens: Tokens,
    *,
    n: int = 2,
    lengths: Tensor | None = None,
    end_token: int | tuple[int, ...] | None = None,
    per_text: bool = False,
) -> Tensor:
    """The share of a text's n-grams that have occurred in it before, the mean over texts with at least `n` tokens.

    One minus different n-grams by all n-grams: seq-rep-n of Welleck et al. 2020 (arXiv 1908.04319).

    Args:
        tokens: Ids (N, L), or N lists of ids.
        n: Tokens of an n-gram.
        lengths: (N,) tokens of each row; what follows is padding.
        end_token: Instead of `lengths`: the first of these in a text is its last token.
        per_text: Return (N,), NaN for texts of fewer than `n` tokens, instead of the mean.

    Returns:
        0-d in [0, 1), or (N,).

    Raises:
        ArgumentError: Tokens and lengths do not fit, or no text has `n` tokens.

    >>> repetition_n([[1, 2, 1, 2, 1]], n=2)
    tensor(0.5000)
    """
    who = "repetition_n"
    size = whole(who, "n", n, _N)
    ratios = 1 - distinct_ratios(checked_texts(who, tokens, lengths, end_token), size)
    return ratios if per_text else mean_over_texts(who, ratios, size)


def distinct_ratios(texts: Texts, n: int) -> Tensor:
    """(N,): different n-grams by n-grams of each text, NaN where it has none."""
    found = ngrams(texts, n)
    return found.different_per_text() / found.per_text()


def pooled_ratio(who: str, texts: Texts, n: int) -> Tensor:
    """Different n-grams by n-grams of all texts together, 0-d."""
    found = ngrams(texts, n)
    if not found.different:
        raise too_short(who, n)
    return found.kinds.new_tensor(found.different) / len(found.kinds)


def mean_over_texts(who: str, values: Tensor, n: int) -> Tensor:
    """The mean of what is not NaN, 0-d, or ArgumentError where there is nothing else."""
    counted = values[~values.isnan()]
    if not counted.numel():
        raise too_short(who, n)
    return counted.mean()


def too_short(who: str, n: int) -> ArgumentError:
    """No text is long enough to be counted."""
    if n == 1:
        return ArgumentError(who, "tokens", "nothing", "every text is empty", "measure texts of at least one token")
    return ArgumentError(who, "n", n, f"no text has {n} tokens", "use a smaller n, or generate longer texts")
