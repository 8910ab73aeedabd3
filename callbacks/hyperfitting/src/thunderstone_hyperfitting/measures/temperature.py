"""The temperature at which a model is as sure of the next token as another one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.arguments import finite
from thunderstone_hyperfitting.measures.predictions import counted_logits

_STEPS = 200


def matched_temperature(
    logits: Tensor,
    entropy: float | Tensor,
    mask: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    tolerance: float = 1e-5,
) -> float:
    """The temperature T at which the mean entropy of softmax(logits / T) is `entropy`.

    For the control that belongs beside hyperfitting: sampling from the model as it was, at the temperature that makes
    its predictions as sure as the hyperfitted model's, shows what sharper predictions alone would do.

    The mean entropy grows with T, from that of the ties at the top (0 where there are none) to the logarithm of the
    number of tokens that can come; in between there is exactly one T, found by Newton steps on log T inside a bracket.

    Args:
        logits: (..., V).
        entropy: In nats, e.g. another model's `prediction_entropy` of the same contexts.
        mask: (...) bool, True where a prediction counts.
        lengths: (N,) for logits (N, L, V), instead of `mask`.
        tolerance: In nats: the entropy at the returned temperature is that close to `entropy`.

    Returns:
        The temperature, above 0.

    Raises:
        ArgumentError: No temperature has that entropy, or logits and mask do not fit.

    >>> round(matched_temperature(torch.tensor([[2.0, 0.0]]), 0.5004), 3)  # that of probabilities 0.8 and 0.2
    1.443
    """
    who = "matched_temperature"
    if isinstance(entropy, Tensor) and entropy.numel() == 1:
        entropy = entropy.item()
    target = finite(who, "entropy", entropy, "pass a mean entropy in nats", minimum=0)
    closeness = finite(who, "tolerance", tolerance, "use 1e-5", above=0)
    chosen = counted_logits(who, logits, mask, lengths)
    # Shifted, so that no temperature makes them overflow.
    chosen = chosen - chosen.amax(dim=-1, keepdim=True)
    lowest, highest = _mean_log(chosen == 0), _mean_log(torch.isfinite(chosen))
    if not lowest < target < highest:
        reason = f"the entropy of these predictions lies between {lowest:.4g} and {highest:.4g} at any temperature"
        raise ArgumentError(who, "entropy", entropy, reason, "pass one in between, in nats")
    low, high, guess = -math.inf, math.inf, 0.0
    for _ in range(_STEPS):
        value, slope = _entropy_and_slope(chosen, math.exp(guess))
        if abs(value - target) <= closeness:
            return math.exp(guess)
        low, high = (guess, high) if value < target else (low, guess)
        step = guess + (target - value) / slope if slope > 0 else math.nan
        # Where Newton's step leaves the bracket, halve that; where there is none yet, go on by a factor of 4.
        if not (max(low, guess - 1.4) < step < min(high, guess + 1.4)):
            if math.isinf(low) or math.isinf(high):
                step = guess + (1.4 if value < target else -1.4)
            else:
                step = (low + high) / 2
        guess = step
        if high - low < 1e-12 or not -600 < guess < 600:
            break
    raise ArgumentError(
        who, "entropy", entropy, "rounding hides which temperature has it", "pass float64 logits or a larger tolerance"
    )


def _mean_log(counted: Tensor) -> float:
    """The entropy of a uniform choice among the counted tokens (P, V), the mean over predictions."""
    return float(counted.sum(dim=-1).cpu().double().log().mean())


def _entropy_and_slope(logits: Tensor, temperature: float) -> tuple[float, float]:
    """Mean entropy of softmax(logits / T) and its derivative by log T, which is the mean variance of logits / T."""
    scaled = logits / temperature
    logs = scaled.log_softmax(dim=-1)
    probabilities = logs.exp()
    finite_logs = logs.clamp(min=torch.finfo(logs.dtype).min)
    entropy = -(probabilities * finite_logs).sum(dim=-1)
    # The variance of log-probabilities is that of the scaled logits.
    centred = torch.where(probabilities > 0, finite_logs + entropy.unsqueeze(-1), 0)
    return float(entropy.mean()), float((probabilities * centred.square()).sum(dim=-1).mean())
