"""The measures of texts as torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from thunderstone import ArgumentError
from thunderstone.arguments import finite, flag, whole
from thunderstone_hyperfitting.measures.bleu import bleu_scores
from thunderstone_hyperfitting.measures.overlap import overlaps, training_texts
from thunderstone_hyperfitting.measures.ratios import distinct_ratios, mean_over_texts, pooled_ratio, too_short
from thunderstone_hyperfitting.measures.texts import Texts, Tokens, checked_texts


class _MeanOverTexts(Metric):
    """A mean over texts of something that each text has by itself."""

    is_differentiable = False
    full_state_update = False
    total: Tensor
    texts: Tensor

    def __init__(self, end_token: int | tuple[int, ...] | None, n: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.end_token, self.n = end_token, n
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("texts", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def _who(self) -> str:
        return type(self).__name__

    def _values(self, texts: Texts) -> Tensor:
        """(N,), NaN where a text does not count."""
        raise NotImplementedError

    def update(self, tokens: Tokens, lengths: Tensor | None = None) -> None:
        """Take in texts: ids (N, L) and their lengths (N,), or N lists of ids."""
        end_token = None if lengths is not None else self.end_token
        values = self._values(checked_texts(self._who, tokens, lengths, end_token))
        counted = values[~values.isnan()].to(self.total.device)
        self.total += counted.sum()
        self.texts += len(counted)

    def compute(self) -> Tensor:
        """The mean over the texts that count, 0-d, or ArgumentError where none does."""
        if not self.texts:
            raise too_short(self._who, self.n)
        return self.total / self.texts

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value or several: those passed, or the current one. Returns the figure and the axis."""
        return self._plot(val, ax)


class TypeTokenRatio(_MeanOverTexts):
    """Different tokens of a text by its tokens, the mean over texts; the functional twin is `type_token_ratio`.

    ``update(tokens, lengths=None)`` takes ids (N, L), or N lists; ``compute()`` returns 0-d. Empty texts do not count.

    Args:
        end_token: Where `update` gets no lengths: the first of these in a text is its last token.
        kwargs: Of `torchmetrics.Metric`.

    >>> metric = TypeTokenRatio(end_token=0)
    >>> metric.update(torch.tensor([[5, 6, 5, 6], [5, 9, 7, 0]]))
    >>> metric.compute()
    tensor(0.7500)
    """

    higher_is_better = True
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, end_token: int | tuple[int, ...] | None = None, **kwargs: Any) -> None:
        super().__init__(end_token, 1, **kwargs)

    def _values(self, texts: Texts) -> Tensor:
        return distinct_ratios(texts, 1)


class RepetitionN(_MeanOverTexts):
    """The share of a text's n-grams that have occurred in it before, the mean over texts; see `repetition_n`.

    ``update(tokens, lengths=None)`` takes ids (N, L), or N lists; ``compute()`` returns 0-d. Texts of fewer than `n`
    tokens do not count.

    Args:
        n: Tokens of an n-gram.
        end_token: Where `update` gets no lengths: the first of these in a text is its last token.
        kwargs: Of `torchmetrics.Metric`.

    >>> metric = RepetitionN(n=2)
    >>> metric.update([[1, 2, 1, 2, 1]])
    >>> metric.compute()
    tensor(0.5000)
    """

    higher_is_better = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, n: int = 2, end_token: int | tuple[int, ...] | None = None, **kwargs: Any) -> None:
        super().__init__(end_token, whole("RepetitionN", "n", n, "2 for pairs of tokens"), **kwargs)

    def _values(self, texts: Texts) -> Tensor:
        return 1 - distinct_ratios(texts, self.n)


class TrainingOverlap(_MeanOverTexts):
    """The longest run of tokens that texts share with the training set; see `longest_overlap`.

    ``update(tokens, lengths=None)`` takes ids (N, L), or N lists; ``compute()`` returns 0-d: the mean over texts, or
    the share of texts with more than `longer_than` tokens. A text without a token counts with 0.

    Args:
        training: Ids (M, T), or M lists of ids.
        training_lengths: (M,) tokens of each training sequence.
        longer_than: Report the share of texts that share more than this many tokens; 10 is the paper's.
        end_token: Where `update` gets no lengths, or there are no `training_lengths`: the first of these is the last
            token of its text.
        kwargs: Of `torchmetrics.Metric`.

    >>> metric = TrainingOverlap([[0, 1, 2, 3], [3, 9]])
    >>> metric.update([[1, 2, 3, 9], [7, 7]])
    >>> metric.compute()
    tensor(1.5000)
    """

    higher_is_better = False
    plot_lower_bound = 0.0

    def __init__(
        self,
        training: Tokens,
        training_lengths: Tensor | None = None,
        longer_than: int | None = None,
        end_token: int | tuple[int, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(end_token, 1, **kwargs)
        if longer_than is not None:
            longer_than = whole("TrainingOverlap", "longer_than", longer_than, "10 is the paper's", minimum=0)
        self.longer_than = longer_than
        end = None if training_lengths is not None else end_token
        known = training_texts("TrainingOverlap", training, training_lengths, end)
        self._training = Texts(known.ids.cpu(), known.lengths.cpu())

    def _values(self, texts: Texts) -> Tensor:
        shared = overlaps(texts, self._training)
        return shared.float() if self.longer_than is None else (shared > self.longer_than).float()


class _KeptTexts(Metric):
    """Something that texts have together: they are kept, and gathered from every process."""

    is_differentiable = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    ids: list[Tensor]
    lengths: list[Tensor]

    def __init__(self, n: int, end_token: int | tuple[int, ...] | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n, self.end_token = whole(type(self).__name__, "n", n, "2 to 4 are usual"), end_token
        self.add_state("ids", [], dist_reduce_fx="cat")
        self.add_state("lengths", [], dist_reduce_fx="cat")

    def update(self, tokens: Tokens, lengths: Tensor | None = None) -> None:
        """Take in texts: ids (N, L) and their lengths (N,), or N lists of ids."""
        end_token = None if lengths is not None else self.end_token
        texts = checked_texts(type(self).__name__, tokens, lengths, end_token)
        self.ids.append(texts.ids)
        self.lengths.append(texts.lengths)

    def _texts(self) -> Texts:
        who = type(self).__name__
        # A list before several processes' states are gathered, a tensor afterwards.
        if isinstance(self.lengths, list) and not self.lengths:
            raise ArgumentError(who, "tokens", "nothing", "there is no text", "call update first")
        return Texts(dim_zero_cat(self.ids), dim_zero_cat(self.lengths))

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value or several: those passed, or the current one. Returns the figure and the axis."""
        return self._plot(val, ax)


class DistinctN(_KeptTexts):
    """Different n-grams by all n-grams, over all texts seen; the functional twin is `distinct_n`.

    ``update(tokens, lengths=None)`` takes ids (N, L), or N lists; ``compute()`` returns 0-d.

    Args:
        n: Tokens of an n-gram.
        pooled: False takes the share within each text and the mean over texts.
        end_token: Where `update` gets no lengths: the first of these in a text is its last token.
        kwargs: Of `torchmetrics.Metric`.

    >>> metric = DistinctN(n=2)
    >>> metric.update([[1, 2, 3]])
    >>> metric.update([[1, 2, 4]])
    >>> metric.compute()
    tensor(0.7500)
    """

    higher_is_better = True

    def __init__(
        self, n: int = 2, pooled: bool = True, end_token: int | tuple[int, ...] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(n, end_token, **kwargs)
        self.pooled = flag("DistinctN", "pooled", pooled, "use True or False")

    def compute(self) -> Tensor:
        """The share over all texts, 0-d, or ArgumentError where no text has `n` tokens."""
        texts = self._texts()
        if self.pooled:
            return pooled_ratio("DistinctN", texts, self.n)
        return mean_over_texts("DistinctN", distinct_ratios(texts, self.n), self.n)


class SelfBLEU(_KeptTexts):
    """BLEU of each text against all others, the mean over all texts seen; the functional twin is `self_bleu`.

    ``update(tokens, lengths=None)`` takes ids (N, L), or N lists; ``compute()`` returns 0-d.

    Args:
        n: The longest k-grams.
        smoothing: In place of no match, as in `self_bleu`.
        end_token: Where `update` gets no lengths: the first of these in a text is its last token.
        kwargs: Of `torchmetrics.Metric`.

    >>> metric = SelfBLEU()
    >>> metric.update([[1, 2, 3, 4, 5]])
    >>> metric.update([[1, 2, 3, 4, 5]])
    >>> metric.compute()
    tensor(1.)
    """

    higher_is_better = False

    def __init__(
        self, n: int = 4, smoothing: float = 0.1, end_token: int | tuple[int, ...] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(n, end_token, **kwargs)
        self.smoothing = finite("SelfBLEU", "smoothing", smoothing, "use 0.1, or 0 for none", minimum=0)

    def compute(self) -> Tensor:
        """The mean over texts of at least `n` tokens, 0-d, or ArgumentError where there is none, or one text only."""
        return mean_over_texts("SelfBLEU", bleu_scores("SelfBLEU", self._texts(), self.n, self.smoothing), self.n)
