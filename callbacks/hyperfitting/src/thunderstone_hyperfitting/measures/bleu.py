"""Self-BLEU: how much of each text stands in the others."""

from __future__ import annotations

import torch
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.arguments import finite, whole
from thunderstone_hyperfitting.measures.ngrams import NGrams, ngrams
from thunderstone_hyperfitting.measures.ratios import mean_over_texts
from thunderstone_hyperfitting.measures.texts import Texts, Tokens, checked_texts


def self_bleu(
    tokens: Tokens,
    *,
    n: int = 4,
    lengths: Tensor | None = None,
    end_token: int | tuple[int, ...] | None = None,
    smoothing: float = 0.1,
    per_text: bool = False,
) -> Tensor:
    r"""BLEU of each text against all others, the mean over texts (Zhu et al. 2018, arXiv 1802.01886).

    .. math:: \min\left(1, e^{1 - r/c}\right) \exp\Big(\tfrac{1}{n} \sum_{k=1}^n \log p_k\Big)

    with c the text's length, r the length nearest to it among the others (of two the shorter), and p_k the share of the
    text's k-grams that another text has as often (clipped counts; Papineni et al. 2002, section 2). Where no k-gram
    matches, `smoothing` matches are put in its place, as in Texygen (NLTK's smoothing method 1); where not even a token
    does, BLEU is 0.

    Every text is compared with all others at once, by the largest and second largest count of each k-gram: time grows
    with the number of tokens, not with its square.

    Args:
        tokens: Ids (N, L), or N lists of ids; at least two texts.
        n: The longest k-grams.
        lengths: (N,) tokens of each row; what follows is padding.
        end_token: Instead of `lengths`: the first of these in a text is its last token.
        smoothing: In place of no match, at least 0; with 0 such a text has BLEU 0.
        per_text: Return (N,), NaN for texts of fewer than `n` tokens, instead of the mean. Such texts are still
            references of the others.

    Returns:
        0-d in [0, 1], or (N,). Lower is more diverse.

    Raises:
        ArgumentError: Tokens and lengths do not fit, there is one text only, or none has `n` tokens.

    >>> self_bleu([[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]])
    tensor(1.)
    """
    who = "self_bleu"
    size = whole(who, "n", n, "4 is usual")
    amount = finite(who, "smoothing", smoothing, "use 0.1, or 0 for none", minimum=0)
    scores = bleu_scores(who, checked_texts(who, tokens, lengths, end_token), size, amount)
    return scores if per_text else mean_over_texts(who, scores, size)


def bleu_scores(who: str, texts: Texts, n: int, smoothing: float) -> Tensor:
    """(N,): BLEU of each text against all others, NaN for texts of fewer than `n` tokens."""
    if len(texts) < 2:
        raise ArgumentError(who, "tokens", "one text", "there is no other to compare it with", "pass at least two")
    precise = torch.float32 if texts.ids.device.type == "mps" else torch.float64
    logs = torch.zeros(len(texts), dtype=precise, device=texts.ids.device)
    for size in range(1, n + 1):
        found = ngrams(texts, size)
        matches = _matches(found).to(precise)
        if size > 1:
            matches = torch.where(matches == 0, smoothing, matches)
        logs += (matches / found.per_text()).log() / n
    lengths = texts.lengths.to(precise)
    penalty = (1 - _nearest_length(texts.lengths).to(precise) / lengths).clamp(max=0)
    scores = (logs + penalty).exp()
    # A share above 1, where smoothing exceeds the number of k-grams, is none.
    return torch.where(texts.lengths >= n, scores.clamp(max=1), torch.nan).to(torch.get_default_dtype())


def _matches(found: NGrams) -> Tensor:
    """(N,) int64: n-grams of each text that another has too, each at most as often as the text that has most of it."""
    owners, kinds, counts = found.counted()
    # Within each kind the largest counts come last.
    order = _sorted_by(kinds, counts)
    owners, kinds, counts = owners[order], kinds[order], counts[order]
    last = torch.ones_like(kinds, dtype=torch.bool)
    last[:-1] = kinds[1:] != kinds[:-1]
    places = last.nonzero().squeeze(1)
    sizes = torch.bincount(kinds)
    largest, holder = counts[places], owners[places]
    second = torch.where(sizes > 1, counts[(places - 1).clamp(min=0)], 0)
    elsewhere = torch.where(holder[kinds] == owners, second[kinds], largest[kinds])
    clipped = torch.minimum(counts, elsewhere)
    return torch.zeros(found.texts, dtype=torch.int64, device=owners.device).index_add(0, owners, clipped)


def _sorted_by(first: Tensor, then: Tensor) -> Tensor:
    order = then.argsort(stable=True)
    return order[first[order].argsort(stable=True)]


def _nearest_length(lengths: Tensor) -> Tensor:
    """(N,) int64: of the other texts' lengths the nearest to each one's own, and the shorter of two."""
    values, place, counts = torch.unique(lengths, return_inverse=True, return_counts=True)
    far = int(values[-1]) * 4 + 4
    shorter = torch.cat([values.new_tensor([-far]), values[:-1]])
    longer = torch.cat([values[1:], values.new_tensor([far])])
    nearest = torch.where(values - shorter <= longer - values, shorter, longer)
    return torch.where(counts > 1, values, nearest)[place]
