"""The loss of every token: the clipped ratio, the KL term and the entropy bonus."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.arguments import finite, one_of

KL_ESTIMATES = ("k1", "k2", "k3")


@dataclass(frozen=True)
class TokenLosses:
    """Of the tokens of B completions. Everything is 0 (or False) outside of the mask.

    Attributes:
        loss: (B, L), with its graph.
        ratio: (B, L), new over old probability; 1 outside of the mask.
        clipped: (B, L) bool, where clipping has taken the gradient of the ratio away.
        kl: (B, L) estimates of the divergence from the reference, or None without one. No graph.
    """

    loss: Tensor
    ratio: Tensor
    clipped: Tensor
    kl: Tensor | None


@dataclass(frozen=True)
class PolicyLoss:
    r"""The loss of tokens, to be aggregated by `aggregate`.

    .. math:: \ell_t = -\min(\rho_t A, \mathrm{clip}(\rho_t, 1-\epsilon_l, 1+\epsilon_h) A)
              + \beta\,\mathrm{KL}_t - \eta H_t, \qquad \rho_t = \pi(y_t) / \pi_\mathrm{old}(y_t)

    Schulman et al. 2017 (eq. 7) with the group's advantage (Shao et al. 2024, eq. 3), a higher upper bound (Yu et al.
    2025, DAPO) and, for negative advantages, a bound on the ratio itself (Ye et al. 2020, dual clip).

    Args:
        clip_low: ε below 1, in [0, 1].
        clip_high: ε above 1, at least 0; None for `clip_low`.
        clip_dual: The largest ratio a negative advantage is multiplied by, above 1 + `clip_high`; None for no bound.
        kl: ``"k1"``, ``"k2"`` or ``"k3"``, see `kl_estimate`.
        kl_weight: β, at least 0. 0 needs no reference.
        kl_correction: Multiply the estimate by ρ, which makes its gradient that of the reverse divergence, also where
            the policy is still the old one (DeepSeek-V3.2, arXiv 2512.02556).
        entropy_weight: η, at least 0. 0 needs no entropies.

    Raises:
        ArgumentError: An argument is out of range.
    """

    clip_low: float = 0.2
    clip_high: float | None = None
    clip_dual: float | None = None
    kl: str = "k3"
    kl_weight: float = 0.0
    entropy_weight: float = 0.0
    kl_correction: bool = False

    def __post_init__(self) -> None:
        who = type(self).__name__
        finite(who, "clip_low", self.clip_low, "0.2 is usual", minimum=0, maximum=1)
        if self.clip_high is not None:
            finite(who, "clip_high", self.clip_high, "0.2 is usual, DAPO takes 0.28", minimum=0)
        if self.clip_dual is not None:
            finite(who, "clip_dual", self.clip_dual, "it bounds what clip_high leaves; try 3", above=1 + self.upper)
        one_of(who, "kl", self.kl, KL_ESTIMATES)
        finite(who, "kl_weight", self.kl_weight, "0 leaves the KL term out", minimum=0)
        finite(who, "entropy_weight", self.entropy_weight, "0 leaves the bonus out", minimum=0)

    @property
    def upper(self) -> float:
        """ε above 1."""
        return self.clip_low if self.clip_high is None else self.clip_high

    def __call__(
        self,
        new: Tensor,
        old: Tensor,
        advantages: Tensor,
        mask: Tensor,
        *,
        reference: Tensor | None = None,
        entropies: Tensor | None = None,
    ) -> TokenLosses:
        """The loss of every token.

        Args:
            new: Log-probabilities (B, L) now, with their graph.
            old: The same at the time of the rollout, without one.
            advantages: (B,).
            mask: (B, L) bool, the tokens that count, made of lengths.
            reference: Log-probabilities (B, L) under the reference; needed where `kl_weight` is above 0. Given with a
                weight of 0, the divergence is still measured.
            entropies: (B, L); needed where `entropy_weight` is above 0.

        Raises:
            ArgumentError: Something needed is missing.
        """
        who = type(self).__name__
        if self.kl_weight > 0 and reference is None:
            hint = "pass the reference's log-probabilities, or kl_weight=0"
            raise ArgumentError(who, "reference", None, f"kl_weight={self.kl_weight:g} needs one", hint)
        if self.entropy_weight > 0 and entropies is None:
            hint = "pass entropies (B, L), or entropy_weight=0"
            raise ArgumentError(who, "entropies", None, f"entropy_weight={self.entropy_weight:g} needs them", hint)
        # Masked before the exponential: what stands in the padding must not overflow, nor have a gradient.
        ratio = torch.where(mask, new - old, 0.0).exp()
        advantage = advantages.unsqueeze(-1)
        loss = clipped_surrogate(ratio, advantage, self.clip_low, self.upper, self.clip_dual)
        with torch.no_grad():
            clipped = ((ratio < 1 - self.clip_low) & (advantage < 0)) | ((ratio > 1 + self.upper) & (advantage > 0))
            if self.clip_dual is not None:
                clipped |= (ratio > self.clip_dual) & (advantage < 0)
        kl = None
        if reference is not None:
            kl = kl_estimate(torch.where(mask, new, 0.0), torch.where(mask, reference, 0.0), self.kl)
            if self.kl_weight > 0:
                loss = loss + self.kl_weight * (ratio * kl if self.kl_correction else kl)
            kl = kl.detach()
        if self.entropy_weight > 0 and entropies is not None:
            loss = loss - self.entropy_weight * entropies
        return TokenLosses(torch.where(mask, loss, 0.0), ratio.detach(), clipped & mask, kl)


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float, clip_dual: float | None = None
) -> Tensor:
    """``-min(ρA, clip(ρ, 1 - clip_low, 1 + clip_high) A)``, entry by entry; shapes broadcast.

    Args:
        ratio: ρ.
        advantages: A.
        clip_low: In [0, 1].
        clip_high: At least 0.
        clip_dual: Bounds ρ where A is negative: the loss is at most ``clip_dual |A|``.
    """
    bounded = ratio if clip_dual is None else torch.where(advantages < 0, ratio.clamp(max=clip_dual), ratio)
    return -torch.minimum(bounded * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)


def kl_estimate(new: Tensor, reference: Tensor, estimate: str = "k3") -> Tensor:
    r"""An estimate of KL(π ‖ π_ref) from tokens drawn from π, entry by entry.

    With :math:`d = \log\pi - \log\pi_\mathrm{ref}`: k1 is d (unbiased), k2 is d²/2 (biased, little variance), k3 is
    :math:`e^{-d} + d - 1` (unbiased, never negative). Schulman 2020, "Approximating KL divergence".

    Args:
        new: log π, any shape.
        reference: log π_ref, the same shape.
        estimate: ``"k1"``, ``"k2"`` or ``"k3"``.

    Raises:
        ArgumentError: There is no such estimate.
    """
    one_of("kl_estimate", "estimate", estimate, KL_ESTIMATES)
    difference = new - reference
    if estimate == "k1":
        return difference
    if estimate == "k2":
        return difference.square() / 2
    return torch.expm1(-difference) + difference
