"""What GRPO reports of a rollout and of the updates made of it, over all replicas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor

from thunderstone import Table
from thunderstone_grpo.rollouts.rollout import Rollout
from thunderstone_grpo.uplift import RankUplift, uplift_by_rank

if TYPE_CHECKING:
    from thunderstone_grpo.collector import Collected, Collector
    from thunderstone_grpo.rollouts.chunk import Buffer


def replicas(trainer: Trainer) -> int:
    """How many there are."""
    return int(trainer.world_size)


def summed_over_replicas(trainer: Trainer, values: Tensor) -> Tensor:
    """The sum of a float64 vector over all replicas, on the CPU; every replica has to call it."""
    if trainer.world_size == 1 or not (dist.is_available() and dist.is_initialized()):
        return values.cpu()
    total = values.to(trainer.strategy.root_device, copy=True)
    dist.all_reduce(total)
    return total.cpu()


def rollout_sums(collected: Collected) -> dict[str, tuple[float, float]]:
    """Sums and counts of what is reported of a rollout, by name; their quotient is a mean over all replicas."""
    rollout = collected.rollout
    rewards, lengths = rollout.rewards.double(), rollout.lengths.double()
    scored, shaped = ~rewards.isnan(), collected.shaped.double()
    groups = rollout.group.unique()
    found = {
        "reward": _of(rewards[scored]),
        "shaped_reward": _of(shaped[~shaped.isnan()]),
        "reward_spread": _of(torch.tensor(_spreads(rewards, rollout.group), dtype=torch.float64)),
        "dead_groups": (float(len(collected.dead)), float(len(groups))),
        "completion_length": _of(lengths),
        "truncated": _of(rollout.truncated.double()),
        "unscorable": _of((~scored).double()),
        "groups_drawn": (float(collected.drawn_groups), float(len(groups))),
    }
    if rollout.parts and len(rollout.parts) > 1:
        for name, values in rollout.parts.items():
            found[f"reward_{name}"] = _of(values[~values.isnan()].double())
    return found


def _of(values: Tensor) -> tuple[float, float]:
    return float(values.sum()), float(len(values))


def _spreads(rewards: Tensor, group: Tensor) -> list[float]:
    """The standard deviation of each group's rewards."""
    owns = [rewards[(group == number) & ~rewards.isnan()] for number in group.unique().tolist()]
    return [float(own.std()) for own in owns if len(own) > 1]


def means(names: list[str], sums: Tensor) -> dict[str, float]:
    """The means of what was summed and counted over replicas; without those of which there is nothing.

    Args:
        names: Of the figures.
        sums: (names, 2), sums and counts.
    """
    return {name: total / count for name, (total, count) in zip(names, sums.tolist(), strict=True) if count}


def add_notes(notes: dict[str, Tensor], found: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Add the sums and counts of a step's figures to those of the steps before it."""
    for name, (total, count) in found.items():
        # Apple's GPUs have no float64.
        exact = torch.float32 if total.device.type == "mps" else torch.float64
        value = torch.stack([total.detach().to(exact), count.to(exact)])
        notes[name] = notes[name] + value if name in notes else value


def measured_uplift(trainer: Trainer, collector: Collector, buffer: Buffer) -> RankUplift:
    """At each likelihood rank the share of right completions that are more probable now than at the rollout, over all
    replicas; one more pass over the rollout."""
    rows = torch.cat([chunk.rows.cpu() for chunk in buffer.chunks])
    lengths = torch.cat([chunk.lengths.cpu() for chunk in buffer.chunks])
    width = int(lengths.max()) if len(lengths) else 0
    before, after = torch.zeros(len(rows), width), torch.zeros(len(rows), width)
    start = 0
    for chunk in buffer.chunks:
        if len(chunk) and chunk.old is not None:
            part = slice(start, start + len(chunk))
            before[part, : chunk.old.shape[1]] = chunk.old.float().cpu()
            after[part, : chunk.old.shape[1]] = collector.scored(chunk).float().cpu()
        start += len(chunk)
    # In the order of the rollout: ranks are those of a group's completions among one another.
    order = rows.argsort()
    groups = buffer.group[rows[order]].unique(return_inverse=True)[1]
    most = torch.tensor(int(groups.bincount().max()) if len(groups) else 0)
    if replicas(trainer) > 1 and dist.is_initialized():
        most = most.to(trainer.strategy.root_device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
    sums = torch.zeros(int(most), 2, dtype=torch.float64)
    if len(groups):
        counted = torch.cat([chunk.counted.cpu() for chunk in buffer.chunks])[order]
        correct = buffer.correct[rows[order]]
        own = uplift_by_rank(before[order], after[order], lengths[order], correct, groups, scorable=counted)
        sums[: len(own.count)] = torch.stack([own.rose, own.count], dim=1).double()
    rose, count = summed_over_replicas(trainer, sums).round().long().unbind(1)
    return RankUplift(rose, count)


def completions_table(rollout: Rollout, advantages: Tensor, rows: int) -> Table:
    """The first completions of a rollout with what they were given.

    Args:
        rollout: The rollout.
        advantages: (N,), 0 where a completion is not trained on.
        rows: How many at most.
    """
    several = list(rollout.parts) if len(rollout.parts) > 1 else []
    columns = ["group", "prompt", "completion", "length", "truncated", "reward", *several, "advantage"]
    lines: list[list[Any]] = []
    for row in range(min(rows, len(rollout))):
        prompt, completion = (_text(shown) for shown in rollout.shown[row])
        values = [float(rollout.parts[name][row]) for name in several]
        lines.append(
            [
                int(rollout.group[row]),
                prompt,
                completion,
                len(rollout.completions[row]),
                bool(rollout.truncated[row]),
                float(rollout.rewards[row]),
                *values,
                float(advantages[row]),
            ]
        )
    return Table(columns, lines)


def _text(shown: Any) -> str:
    if isinstance(shown, str):
        return shown
    if shown and isinstance(shown[-1], Mapping):
        return "\n".join(f"{message.get('role', '')}: {message.get('content', '')}" for message in shown)
    return " ".join(map(str, shown))
