"""pass@k: the probability that one of k samples is right, without bias and without rounding trouble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from thunderstone import ArgumentError
from thunderstone.arguments import whole
from thunderstone_grpo.completions import group_ids, group_sum

WHO = "PassAtK"
_AT_ONCE = 2**22


def pass_at_k(n: Tensor | int, c: Tensor | int, k: int) -> Tensor:
    r"""The unbiased estimate of the probability that one of k samples is right.

    .. math:: 1 - \binom{n-c}{k} / \binom{n}{k} = 1 - \prod_{i=n-c+1}^{n} (1 - k/i)

    Chen et al. 2021, eq. 1. Worked out as a sum of logarithms over the shorter of the two products, so that a billion
    samples and probabilities near 0 keep their digits.

    Args:
        n: Samples of each problem, whole numbers of any shape.
        c: How many of them are right, at most n; shapes broadcast.
        k: At least 1 and at most every n.

    Returns:
        float64, in [0, 1].

    Raises:
        ArgumentError: k or c is larger than n, or something is negative.
    """
    k = whole("pass_at_k", "k", k, "1 is the plain success rate")
    samples, right = torch.broadcast_tensors(*(torch.as_tensor(value, dtype=torch.float64) for value in (n, c)))
    if bool((samples < k).any()):
        least = int(samples.min())
        hint = f"draw {k} samples of each problem, or ask for k up to {least}"
        raise ArgumentError("pass_at_k", "k", k, f"there is a problem with {least} samples", hint)
    if bool((right < 0).any()) or bool((right > samples).any()):
        odd = int(right[(right < 0) | (right > samples)][0])
        raise ArgumentError("pass_at_k", "c", odd, "it must lie between 0 and n", "count the right samples of the n")
    # C(n-c, k) / C(n, k) is symmetric in c and k: the smaller one is the number of factors.
    shape, samples, right = samples.shape, samples.flatten(), right.flatten()
    fewer, more = right.clamp(max=k), right.clamp(min=k)
    missed = torch.zeros_like(samples)
    factors = int(fewer.max()) if fewer.numel() else 0
    width = max(1, _AT_ONCE // max(1, len(samples)))
    for begin in range(0, factors, width):
        j = torch.arange(begin, min(factors, begin + width), dtype=torch.float64, device=samples.device)
        share = more.unsqueeze(1) / (samples.unsqueeze(1) - j)
        logs = torch.log1p(-share.clamp(max=1))
        missed += torch.where(j < fewer.unsqueeze(1), logs, 0.0).sum(1)
    return -torch.expm1(missed).reshape(shape)


class PassAtK(Metric):
    """Mean of `pass_at_k` over problems, for several k.

    As input to ``update``: ``correct``, (P, n) bool for P problems with n samples each, or (N,) with ``groups``. As
    output of ``compute``: a dictionary ``{"pass@1": 0-d float64, …}``. Only sums are kept, and ranks add them up.

    Args:
        k: One number, or several.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ArgumentError: A k is not a whole number above 0, or no problem has that many samples.

    Example:
        >>> metric = PassAtK(k=(1, 2))
        >>> metric.update(torch.tensor([[True, False, False], [False, False, False]]))
        >>> {name: round(value.item(), 4) for name, value in metric.compute().items()}
        {'pass@1': 0.1667, 'pass@2': 0.3333}
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False

    totals: Tensor
    problems: Tensor

    def __init__(self, k: int | Sequence[int] = (1,), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        numbers = [k] if isinstance(k, int) else list(k)
        self.k = [whole(WHO, "k", number, "1 is the plain success rate") for number in numbers]
        if not self.k:
            raise ArgumentError(WHO, "k", k, "there is nothing to compute", "pass at least one number")
        self.add_state("totals", default=torch.zeros(len(self.k), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("problems", default=torch.zeros(len(self.k), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, correct: Tensor, groups: int | Tensor | None = None, scorable: Tensor | None = None) -> None:
        """Take in problems.

        Args:
            correct: (P, n) bool; or (N,) bool with `groups`.
            groups: Size of the groups, or the problem (N,) of each sample.
            scorable: Shape of `correct`: samples that count. A problem with fewer than k of them is left out of pass@k.
        """
        if correct.dim() == 2 and groups is None:
            groups = correct.shape[1]
        elif correct.dim() != 1 or groups is None:
            hint = "pass (P, n), or (N,) with groups"
            raise ArgumentError(WHO, "correct", tuple(correct.shape), "it is not known which samples belong", hint)
        right = correct.flatten().bool()
        counted = torch.ones_like(right) if scorable is None else scorable.flatten().bool()
        ids = group_ids(groups, len(right)).to(right.device)
        n, c = group_sum(counted, ids), group_sum(right & counted, ids)
        for place, k in enumerate(self.k):
            enough = n >= k
            self.totals[place] += pass_at_k(n[enough], c[enough], k).sum().to(self.totals)
            self.problems[place] += enough.sum().to(self.problems)

    def compute(self) -> dict[str, Tensor]:
        """pass@k of everything seen, by name."""
        if not bool((self.problems > 0).all()):
            k = next(number for number, seen in zip(self.k, self.problems.tolist(), strict=True) if seen == 0)
            hint = "draw more samples of each problem, or ask for a smaller k; and call update first"
            raise ArgumentError(WHO, "k", k, "no problem had that many samples", hint)
        return {f"pass@{k}": self.totals[place] / self.problems[place] for place, k in enumerate(self.k)}
