"""How many completions each prompt gets, and what stands before it: strategies of the kind ``grpo.sampler``.

The total is always prompts · group_size, so that a rollout has the same size whatever a sampler does. Samplers have no
state: what they decide follows from their arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.arguments import finite, flag, whole
from thunderstone_grpo.completions import group_sum
from thunderstone_grpo.student_t import quantile


class Sampler(Protocol):
    """What a sampler is asked, in this order."""

    def first(self, prompts: int, group_size: int) -> list[int]:
        """How many completions each prompt gets to begin with."""
        ...

    def examples(self, correct: Tensor, groups: Tensor, prompts: int, seed: int) -> dict[int, list[int]]:
        """Asked once, after the first ones: prompt → completions (rows) to be shown before it from now on."""
        ...

    def more(self, rewards: Tensor, groups: Tensor, prompts: int, group_size: int) -> list[int]:
        """Asked until it says none: how many further completions each prompt gets, all (n,) rewards seen."""
        ...


@dataclass(frozen=True)
class Uniform:
    """The same number for every prompt, at once."""

    def first(self, prompts: int, group_size: int) -> list[int]:
        """`group_size` each."""
        return [group_size] * prompts

    def examples(self, correct: Tensor, groups: Tensor, prompts: int, seed: int) -> dict[int, list[int]]:
        """None."""
        return {}

    def more(self, rewards: Tensor, groups: Tensor, prompts: int, group_size: int) -> list[int]:
        """None."""
        return [0] * prompts


@dataclass(frozen=True)
class XRPO:
    """Further completions where they tell the most, and two solved examples before prompts that all fail.

    Bamba et al. 2025. A share of the completions is drawn evenly; the others go, one after the other, to the prompt of
    the highest `priorities`, in as many stages as there may be rounds of generation.

    Args:
        share: Of the completions that is drawn evenly, in (0, 1]; every prompt gets two or more.
        exploration: λ, the weight of having been tried little, at least 0.
        confidence: Of the interval of the mean reward, in (0, 1).
        stages: Rounds of generation after the first.
        seeding: Whether prompts of which all first completions fail are shown solved examples.
        shown: How many of them.
    """

    share: float = 0.5
    exploration: float = 0.1
    confidence: float = 0.95
    stages: int = 2
    seeding: bool = True
    shown: int = 2

    def __post_init__(self) -> None:
        who = type(self).__name__
        finite(who, "share", self.share, "use 0.5", above=0, maximum=1)
        finite(who, "exploration", self.exploration, "use 0.1", minimum=0)
        finite(who, "confidence", self.confidence, "use 0.95", above=0, maximum=0.999999)
        whole(who, "stages", self.stages, "each is one more round of generation")
        flag(who, "seeding", self.seeding, "False shows no examples")
        whole(who, "shown", self.shown, "the paper shows 2")

    def first(self, prompts: int, group_size: int) -> list[int]:
        """The even share, at least two where there are two."""
        if group_size < 2:
            hint = "use a group_size of 2 or more"
            raise ArgumentError(type(self).__name__, "group_size", group_size, "one reward has no spread", hint)
        return [max(2, math.ceil(self.share * group_size))] * prompts

    def examples(self, correct: Tensor, groups: Tensor, prompts: int, seed: int) -> dict[int, list[int]]:
        """For each prompt without a right completion, rows of `shown` right ones, each of another prompt.

        Where fewer prompts are solved there are fewer; where none is, none.
        """
        solved = group_sum(correct, groups)
        if not self.seeding:
            return {}
        draws = torch.Generator().manual_seed(seed)
        candidates = {prompt: torch.nonzero(correct & (groups == prompt)).flatten() for prompt in range(prompts)}
        helpful = [prompt for prompt in range(len(solved)) if solved[prompt] > 0]
        chosen: dict[int, list[int]] = {}
        for prompt in (one for one in range(prompts) if helpful and len(candidates[one]) == 0):
            order = torch.randperm(len(helpful), generator=draws)[: self.shown].tolist()
            rows = [candidates[helpful[place]] for place in order]
            chosen[prompt] = [int(row[torch.randint(len(row), (1,), generator=draws)]) for row in rows]
        return chosen

    def more(self, rewards: Tensor, groups: Tensor, prompts: int, group_size: int) -> list[int]:
        """The next stage's completions."""
        left = prompts * group_size - len(rewards)
        first = self.first(prompts, group_size)[0] * prompts
        each = math.ceil((prompts * group_size - first) / self.stages)
        extra = [0] * prompts
        counts, deviations = _spreads(rewards, groups, prompts)
        tried = torch.bincount(groups.cpu(), minlength=prompts).tolist()
        for _ in range(min(left, each)):
            # What is drawn in this stage has no reward yet: its spread is taken to be the one seen so far.
            scores = priorities(
                [count + more for count, more in zip(counts, extra, strict=True)],
                deviations,
                [count + more for count, more in zip(tried, extra, strict=True)],
                self.exploration,
                self.confidence,
            )
            extra[max(range(prompts), key=scores.__getitem__)] += 1
        return extra


def priorities(
    counts: Sequence[int], deviations: Sequence[float], tried: Sequence[int], exploration: float, confidence: float
) -> list[float]:
    r"""How much one more completion would tell about each prompt.

    .. math:: h(n) - h(n + 1) + \lambda\sqrt{\log(1 + T)/n}, \qquad h(n) = t_{n-1}\, s / \sqrt n

    h is the half-width of the mean reward's interval, with Student's t. With fewer than two rewards there is no
    interval, and 1/n stands for what it would narrow by.

    Args:
        counts: n, scorable rewards of each prompt.
        deviations: s, their standard deviations (unbiased).
        tried: Completions of each prompt, scorable or not; T is their sum. A prompt that can never be scored is not
            tried for ever: this is the n below the logarithm.
        exploration: λ.
        confidence: Of the interval.
    """
    total = math.log1p(sum(tried))
    scores = []
    for count, deviation, number in zip(counts, deviations, tried, strict=True):
        curiosity = exploration * math.sqrt(total / max(1, number))
        if count < 2:
            scores.append(curiosity + 1 / max(1, number))
        else:
            widths = [quantile(confidence, n - 1) * deviation / math.sqrt(n) for n in (count, count + 1)]
            scores.append(widths[0] - widths[1] + curiosity)
    return scores


def _spreads(rewards: Tensor, groups: Tensor, prompts: int) -> tuple[list[int], list[float]]:
    counts, deviations = [], []
    for prompt in range(prompts):
        seen = rewards[(groups == prompt) & ~rewards.isnan()].double()
        counts.append(len(seen))
        deviations.append(float(seen.std()) if len(seen) > 1 else 0.0)
    return counts, deviations


def seeded_prompt(prompt: str, solved: Sequence[tuple[str, str]]) -> str:
    """A prompt with solved examples before it, each as prompt and completion, a blank line after each.

    Args:
        prompt: The one that failed.
        solved: Prompts and right completions of others.
    """
    return "".join(f"{question}{answer.rstrip()}\n\n" for question, answer in solved) + prompt
