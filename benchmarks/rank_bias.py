"""What GRPO does to likely and unlikely right answers, and what the unlikeliness reward does about it, in a model.

A policy is a softmax over 64 strategies, at first Zipf-distributed (exponent 1.2). Strategy k solves a problem with
probability u_k, drawn once from U(0.05, 0.40), and whether it solves this problem is drawn once for every problem. A
step draws 16 new problems and 32 strategies for each; rewards, shaping, advantages, loss and aggregation are the ones
of thunderstone_grpo. After 300 steps pass@N is worked out exactly on 4000 other problems.

A round is one such model with a policy of its own; all of them go through the strategies together, as groups of one
batch. What is compared begins with the same rates, problems and draws.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from side_by_side import Line, arguments, report
from torch import Tensor

from thunderstone_grpo import GroupZScore, PolicyLoss, ScoredCompletions, Unlikeliness, aggregate, shaped_advantages

STRATEGIES, ZIPF, PROBLEMS, GROUP, STEPS, HELD_OUT = 64, 1.2, 16, 32, 300, 4000
SAMPLES = (1, 4, 16, 64, 256)
LEARNING_RATES, KL_WEIGHTS, UPDATES = (0.03, 0.1), (0.0, 0.1), (1, 2)


@dataclass(frozen=True)
class Policy:
    """What came out of one training: pass@N by N, and the entropy in nats."""

    passes: dict[int, float]
    entropy: float


def solved(rates: Tensor, problems: int, generator: torch.Generator) -> Tensor:
    """Which strategy solves which problem, (rounds, problems, STRATEGIES) bool, by rates (rounds, STRATEGIES)."""
    return torch.rand(len(rates), problems, STRATEGIES, generator=generator) < rates.unsqueeze(1)


def assessed(logits: Tensor, accepted: Tensor) -> list[Policy]:
    """Exact pass@N: a problem is solved by one sample with probability s, and by N with 1 - (1 - s)^N."""
    probabilities = logits.double().softmax(-1)
    rates = (accepted.double() @ probabilities.unsqueeze(-1)).squeeze(-1)
    entropies = -(probabilities * probabilities.log()).sum(-1)
    return [
        Policy({n: float((1 - (1 - rate) ** n).mean()) for n in SAMPLES}, float(entropy))
        for rate, entropy in zip(rates, entropies, strict=True)
    ]


def trained(
    rounds: int, learning_rate: float, kl_weight: float, updates: int, beta: float
) -> tuple[list[Policy], list[Policy]]:
    """The policies before and after."""
    generator = torch.Generator().manual_seed(0)
    rates = 0.05 + 0.35 * torch.rand(rounds, STRATEGIES, generator=generator)
    held_out = solved(rates, HELD_OUT, generator)
    first = (-ZIPF * torch.arange(1, STRATEGIES + 1).log()).repeat(rounds, 1)
    logits = first.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=learning_rate)
    loss_of, advantage, shapers = PolicyLoss(kl_weight=kl_weight), GroupZScore(), [Unlikeliness(beta)] * (beta > 0)
    reference = first.log_softmax(-1)
    size = PROBLEMS * GROUP
    policies = torch.arange(rounds).repeat_interleave(size)
    groups = torch.arange(rounds * PROBLEMS).repeat_interleave(GROUP)
    lengths = torch.ones(rounds * size, dtype=torch.long)
    for step in range(STEPS):
        accepted = solved(rates, PROBLEMS, generator).flatten(0, 1)
        before = logits.detach().log_softmax(-1)
        drawn = torch.multinomial(before.exp(), size, replacement=True, generator=generator).flatten()
        correct = accepted[groups, drawn]
        old = before[policies, drawn].unsqueeze(1)
        completions = ScoredCompletions(correct.float(), old, lengths, groups, correct, seed=step)
        _, advantages = shaped_advantages(completions, shapers, advantage)
        # Groups without signal are left out, and every policy has the mean over its own completions.
        mask = completions.informative[groups].unsqueeze(1)
        counts = mask.view(rounds, size).sum(1).tolist()
        for _ in range(updates):
            now = logits.log_softmax(-1)[policies, drawn].unsqueeze(1)
            losses = loss_of(now, old, advantages, mask, reference=reference[policies, drawn].unsqueeze(1)).loss
            parts = zip(losses.split(size), mask.split(size), counts, strict=True)
            optimizer.zero_grad()
            torch.stack(
                [aggregate(loss, kept, "grpo", completions=n, tokens=n, max_length=1) for loss, kept, n in parts]
            ).sum().backward()
            optimizer.step()
    return assessed(first, held_out), assessed(logits.detach(), held_out)


def at(policies: Sequence[Policy], n: int) -> str:
    """Mean pass@n."""
    return f"{statistics.mean(policy.passes[n] for policy in policies):.3f}"


def entropy(policies: Sequence[Policy]) -> str:
    """Mean entropy."""
    return f"{statistics.mean(policy.entropy for policy in policies):.2f}"


def main() -> None:
    options = arguments(__doc__, rounds=8)
    torch.set_num_threads(1)
    lines: list[Line] = []
    base: list[Policy] = []
    for rate, weight, updates in itertools.product(LEARNING_RATES, KL_WEIGHTS, UPDATES):
        base, plain = trained(options.rounds, rate, weight, updates, 0.0)
        _, shaped = trained(options.rounds, rate, weight, updates, 0.25)
        cells = [f"{at(plain, n)} → {at(shaped, n)}" for n in SAMPLES]
        raised = sum(after.passes[16] > before.passes[16] for before, after in zip(plain, shaped, strict=True))
        name = f"lr {rate:g}, KL {weight:g}, {updates} update{'s' if updates > 1 else ''}"
        lines.append(Line(name, (*cells, f"{entropy(plain)} → {entropy(shaped)}", f"{raised} of {len(base)}")))
    lines.insert(0, Line("untrained", (*(at(base, n) for n in SAMPLES), entropy(base), "")))
    report(
        "Rank bias",
        ("", *(f"pass@{n}" for n in SAMPLES), "Entropy, nats", "pass@16 raised"),
        lines,
        f"GRPO → GRPO with unlikeliness (β = 0.25), means over {len(base)} policies. A softmax over {STRATEGIES} "
        f"strategies (Zipf {ZIPF}), {PROBLEMS} problems a step, groups of {GROUP}, {STEPS} Adam steps, exact pass@N "
        f"over {HELD_OUT} problems; made by benchmarks/rank_bias.py.",
        options.write,
    )


if __name__ == "__main__":
    main()
