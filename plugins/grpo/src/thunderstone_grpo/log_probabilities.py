"""What a policy says about given tokens: log-probabilities and entropies, in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from thunderstone import ArgumentError
from thunderstone.arguments import finite, whole

WHO = "token_log_probabilities"


def token_log_probabilities(
    logits: Tensor, tokens: Tensor, *, temperature: float = 1.0, entropies: bool = False, chunk_size: int | None = None
) -> tuple[Tensor, Tensor | None]:
    r"""Log-probabilities of tokens under the distribution they were drawn from, and its entropies.

    .. math:: \log\pi(y_t) = z_{y_t}/T - \log\sum_v e^{z_v/T}

    Args:
        logits: z, (B, T, V) floating point: row t belongs to token t, so the caller has shifted them.
        tokens: y, (B, T) int64.
        temperature: T, above 0. Scores without it would be those of another policy than the one that was sampled.
        entropies: Whether entropies (nats) are wanted; with gradient.
        chunk_size: So many positions go through the softmax at a time, and what lies between logits and result is
            computed again in the backward pass: V·chunk_size numbers instead of V·B·T. None for all at once.

    Returns:
        Log-probabilities (B, T) and entropies (B, T) or None, in float32, or in float64 for such logits. A logit of
        minus infinity is a token that cannot be drawn.

    Raises:
        ArgumentError: Shapes do not fit, or an argument is out of range.
    """
    temperature = finite(WHO, "temperature", temperature, "use the temperature of the rollout", above=0)
    if logits.dim() != 3 or tokens.shape != logits.shape[:2]:
        reason = f"logits have shape {tuple(logits.shape)}"
        raise ArgumentError(WHO, "tokens", tuple(tokens.shape), reason, "pass tokens (B, T) and logits (B, T, V)")
    if chunk_size is None:
        return _scores(logits, tokens, temperature, entropies)
    positions = whole(WHO, "chunk_size", chunk_size, "None does all positions at once")
    width = max(1, positions // max(1, len(logits)))
    # Split, not sliced: the backward pass of a split writes one gradient of the logits, that of slices one for each.
    pieces = zip(logits.split(width, dim=1), tokens.split(width, dim=1), strict=True)
    scored = [
        checkpoint(_scores, *piece, temperature, entropies, use_reentrant=False, preserve_rng_state=False)
        for piece in pieces
    ]
    if not scored:
        return _scores(logits, tokens, temperature, entropies)
    found = torch.cat([score for score, _ in scored], dim=1)
    return found, torch.cat([entropy for _, entropy in scored], dim=1) if entropies else None


def _scores(logits: Tensor, tokens: Tensor, temperature: float, entropies: bool) -> tuple[Tensor, Tensor | None]:
    scaled = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
    normaliser = scaled.logsumexp(-1)
    chosen = scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - normaliser
    if not entropies:
        return chosen, None
    probabilities = (scaled - normaliser.unsqueeze(-1)).exp()
    # Minus infinity times a probability of zero would be NaN.
    bounded = scaled.clamp(min=torch.finfo(scaled.dtype).min)
    return chosen, normaliser - (probabilities * bounded).sum(-1)


def length_mask(lengths: Tensor, width: int | None = None) -> Tensor:
    """(N, L) bool, True at the tokens of each completion.

    Args:
        lengths: (N,) int64.
        width: L; None for the longest.
    """
    if width is None:
        width = int(lengths.max()) if lengths.numel() else 0
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(-1)


def mean_log_probabilities(log_probabilities: Tensor, lengths: Tensor) -> Tensor:
    """Length-averaged log-probability (N,) of each completion; 0 where there is no token.

    Args:
        log_probabilities: (N, L); what stands after a length does not count.
        lengths: (N,) int64.
    """
    mask = length_mask(lengths, log_probabilities.shape[-1])
    return torch.where(mask, log_probabilities, 0.0).sum(-1) / lengths.clamp(min=1)
