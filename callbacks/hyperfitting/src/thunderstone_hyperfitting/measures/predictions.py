"""How sure a model is of the next token: entropy, and the probability of its favourite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thunderstone import ArgumentError

_HOW = "pass logits of shape (..., vocabulary), floating point"


def prediction_entropy(logits: Tensor, mask: Tensor | None = None, *, lengths: Tensor | None = None) -> Tensor:
    r"""Entropy of the predicted distributions, in nats, the mean over predictions.

    .. math:: -\frac{1}{P}\sum_p \sum_v \mathrm{softmax}(z_p)_v \log \mathrm{softmax}(z_p)_v

    Args:
        logits: (..., V); -inf is a token that cannot come.
        mask: (...) bool, True where a prediction counts.
        lengths: (N,) for logits (N, L, V), instead of `mask`: the first ones of each row count.

    Returns:
        0-d, between 0 and log V.

    Raises:
        ArgumentError: Shapes do not fit, logits are NaN or +inf, or no prediction counts.

    >>> prediction_entropy(torch.zeros(3, 4))
    tensor(1.3863)
    """
    return entropies(counted_logits("prediction_entropy", logits, mask, lengths)).mean()


def top1_probability(logits: Tensor, mask: Tensor | None = None, *, lengths: Tensor | None = None) -> Tensor:
    """Probability of the most probable token, the mean over predictions.

    Args:
        logits: (..., V); -inf is a token that cannot come.
        mask: (...) bool, True where a prediction counts.
        lengths: (N,) for logits (N, L, V), instead of `mask`: the first ones of each row count.

    Returns:
        0-d, between 1/V and 1.

    Raises:
        ArgumentError: Shapes do not fit, logits are NaN or +inf, or no prediction counts.

    >>> top1_probability(torch.tensor([[0.0, 0.0], [3.0, -torch.inf]]))
    tensor(0.7500)
    """
    return favourites(counted_logits("top1_probability", logits, mask, lengths)).mean()


def counted_logits(who: str, logits: Any, mask: Any = None, lengths: Any = None, empty: bool = False) -> Tensor:
    """The logits (P, V) of the predictions that count, at least float32, or ArgumentError.

    Args:
        who: The measure, for messages.
        logits: (..., V).
        mask: (...) bool.
        lengths: (N,) for logits (N, L, V).
        empty: Whether no prediction is fine.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.dim() < 1 or not logits.shape[-1]:
        shown = f"{tuple(logits.shape)}, {logits.dtype}" if isinstance(logits, Tensor) else logits
        raise ArgumentError(who, "logits", shown, "there is no vocabulary to predict", _HOW)
    chosen = logits.reshape(-1, logits.shape[-1])
    if lengths is not None:
        mask = _mask_of(who, logits, mask, lengths)
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.shape != logits.shape[:-1] or mask.dtype is not torch.bool:
            shown = f"{tuple(mask.shape)}, {mask.dtype}" if isinstance(mask, Tensor) else mask
            reason = f"it must be bool of shape {tuple(logits.shape[:-1])}"
            raise ArgumentError(who, "mask", shown, reason, "pass True where a prediction counts")
        chosen = chosen[mask.to(logits.device).reshape(-1)]
    if not len(chosen) and not empty:
        raise ArgumentError(who, "logits", "nothing", "no prediction counts", "leave out batches without a token")
    if chosen.dtype in (torch.float16, torch.bfloat16):
        chosen = chosen.float()
    if len(chosen) and not bool(torch.isfinite(chosen.amax(-1)).all()):
        reason = "some are NaN or +inf, or all of a prediction are -inf"
        raise ArgumentError(who, "logits", "not finite", reason, "look at the training loss: it has probably diverged")
    return chosen


def _mask_of(who: str, logits: Tensor, mask: Any, lengths: Any) -> Tensor:
    if mask is not None:
        raise ArgumentError(who, "lengths", lengths, "the mask says already what counts", "pass one of them")
    numbers = torch.as_tensor(lengths, device=logits.device)
    if logits.dim() != 3 or numbers.shape != logits.shape[:1] or numbers.is_floating_point():
        reason = f"the logits have shape {tuple(logits.shape)}"
        raise ArgumentError(who, "lengths", lengths, reason, "pass N whole numbers for logits (N, L, V), or a mask")
    if len(numbers) and (int(numbers.max()) > logits.shape[1] or int(numbers.min()) < 0):
        wrong = int(numbers.max()) if int(numbers.max()) > logits.shape[1] else int(numbers.min())
        reason = f"the logits have {logits.shape[1]} predictions a text"
        raise ArgumentError(who, "lengths", wrong, reason, "count each text's predictions without padding")
    return torch.arange(logits.shape[1], device=logits.device) < numbers.unsqueeze(1)


def entropies(logits: Tensor) -> Tensor:
    """(P,) nats, for logits (P, V)."""
    logs = logits.log_softmax(dim=-1)
    # 0 log 0 is 0.
    return -(logs.exp() * logs.clamp(min=torch.finfo(logs.dtype).min)).sum(dim=-1)


def favourites(logits: Tensor) -> Tensor:
    """(P,) probabilities of the most probable token, for logits (P, V)."""
    return (logits.amax(dim=-1) - logits.logsumexp(dim=-1)).exp()
