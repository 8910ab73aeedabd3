"""From a batch of prompts to a buffer of chunks with advantages, ready for the updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from thunderstone import UnsupportedSettingError
from thunderstone_grpo.completions import ScoredCompletions
from thunderstone_grpo.reference import AdapterOff, FrozenCopy
from thunderstone_grpo.rollouts.chunk import Buffer, Chunk
from thunderstone_grpo.rollouts.cutting import cut
from thunderstone_grpo.rollouts.policy import Policy, evaluation_mode
from thunderstone_grpo.rollouts.prompts import PromptReader, Prompts
from thunderstone_grpo.rollouts.rollout import Rollout, groups_without_signal
from thunderstone_grpo.rollouts.scoring import score
from thunderstone_grpo.rollouts.writing import Writer
from thunderstone_grpo.samplers import seeded_prompt
from thunderstone_grpo.strategies import shaped_advantages


@dataclass(frozen=True)
class CollectorSettings:
    """What of a rollout is chosen by the user; see `GRPO`."""

    group_size: int
    minibatches: int
    updates: int
    groups_without_signal: str
    max_attempts: int
    mask_truncated: bool
    correct_above: float
    temperature: float
    softmax_positions: int | None
    scores_old: bool


@dataclass
class Collected:
    """A buffer and what is reported of its rollout.

    Attributes:
        buffer: Its totals are those of this process alone.
        rollout: All completions, those of groups without signal included.
        dead: Ids of the groups without signal.
        drawn_groups: How many groups were drawn, those that were drawn again included.
        advantages: (N,) of all completions, 0 where one is not trained on.
        shaped: (N,) shaped rewards, NaN where there is none.
    """

    buffer: Buffer
    rollout: Rollout
    dead: Tensor
    drawn_groups: int
    advantages: Tensor
    shaped: Tensor


class Collector:
    """Collects rollouts.

    Args:
        who: Who asks, for messages.
        policy: Whose completions they are, and who scores them.
        reader: Reads batches.
        writer: Has completions written.
        sampler: Decides how many completions each prompt gets (strategies of the kind ``grpo.sampler``).
        shapers: Of rewards and advantages (``grpo.reward_shaper``).
        advantage: Makes advantages of rewards (``grpo.advantage``).
        reference: Whose log-probabilities the KL term holds on to; None without one.
        context: The precision plug-in's, in which the policy runs.
        settings: The user's.
    """

    def __init__(
        self,
        who: str,
        policy: Policy,
        reader: PromptReader,
        writer: Writer,
        sampler: Any,
        shapers: Sequence[Any],
        advantage: Any,
        reference: FrozenCopy | AdapterOff | None,
        context: Callable[[], AbstractContextManager[None]],
        settings: CollectorSettings,
    ) -> None:
        self.who, self.policy, self.reader, self.writer, self.sampler = who, policy, reader, writer, sampler
        self.shapers, self.advantage, self.reference = shapers, advantage, reference
        self.context, self.settings = context, settings

    def collect(self, batch: Any, first: int, generator: torch.Generator, state: Any) -> Collected:
        """The rollout of a batch of prompts, at the weights of this moment.

        Args:
            batch: Of the training loader.
            first: Number of the batch with which the buffer begins.
            generator: Where draws come from.
            state: What reward functions are given as ``trainer_state``.
        """
        settings = self.settings
        seed = int(torch.randint(2**31, (), generator=generator))
        prompts = self.reader.read(batch)
        rollout = self._drawn(prompts, range(len(prompts)), generator, seed, state)
        drawn_groups = len(prompts)
        dead = groups_without_signal(rollout.rewards, rollout.group)
        if settings.groups_without_signal == "resample":
            while len(dead) and rollout.attempts < settings.max_attempts:
                again = self._drawn(prompts, dead.tolist(), generator, seed, state)
                drawn_groups += len(dead)
                rollout = replace(rollout.without(dead).joined(again), attempts=rollout.attempts + 1)
                dead = groups_without_signal(rollout.rewards, rollout.group)
        left_out = dead if settings.groups_without_signal != "keep" else dead[:0]
        rows = (~torch.isin(rollout.group, left_out)).nonzero().squeeze(1)
        counted = ~rollout.rewards.isnan()
        if settings.mask_truncated:
            counted &= ~rollout.truncated
        chunks = cut(rollout, rows, counted, settings.minibatches, self.policy.device)
        self._score(chunks)
        advantages, shaped, correct = self._advantages(rollout, rows, chunks, seed)
        for chunk in chunks:
            chunk.advantages = advantages[chunk.rows.cpu()].to(self.policy.dtype).to(self.policy.device)
        totals = torch.tensor([chunk.totals() for chunk in chunks], dtype=torch.int64)
        buffer = Buffer(first, chunks, settings.updates, totals, rollout.group, correct)
        return Collected(buffer, rollout, dead, drawn_groups, advantages, shaped)

    def _drawn(
        self, prompts: Prompts, wanted: Sequence[int], generator: torch.Generator, seed: int, state: Any
    ) -> Rollout:
        """Completions of some of the prompts, as many of each as the sampler decides."""
        numbers, size = list(wanted), self.settings.group_size

        def spread(counts: Sequence[int]) -> list[int]:
            each = [0] * len(prompts)
            for number, count in zip(numbers, counts, strict=True):
                each[number] = count
            return each

        rollout = self.writer.write(prompts, spread(self.sampler.first(len(numbers), size)), generator, state)
        asked = False
        while True:
            compact = torch.tensor([numbers.index(number) for number in rollout.group.tolist()])
            if not asked:
                asked = True
                solved = self.sampler.examples(self._correct(rollout), compact, len(numbers), seed)
                prompts = self._seeded(prompts, rollout, {numbers[place]: rows for place, rows in solved.items()})
            more = self.sampler.more(rollout.rewards, compact, len(numbers), size)
            if not any(more):
                return rollout
            rollout = rollout.joined(self.writer.write(prompts, spread(more), generator, state))

    def _seeded(self, prompts: Prompts, rollout: Rollout, solved: dict[int, list[int]]) -> Prompts:
        """The prompts with solved examples before those that were given some and have room for them."""
        if not solved:
            return prompts
        ids = list(prompts.ids)
        for number, rows in solved.items():
            examples = [rollout.shown[row] for row in rows]
            texts = [prompts.shown[number], *(part for example in examples for part in example)]
            if self.reader.tokenizer is None or not all(isinstance(text, str) for text in texts):
                raise UnsupportedSettingError(
                    self.who,
                    "in-context seeding and prompts that are no texts",
                    "solved examples are put before a prompt as text",
                    "let the loader yield strings, or use a sampler without seeding",
                )
            seeded = self.reader.encode(seeded_prompt(texts[0], examples))
            if self.writer.has_room(len(seeded)):
                ids[number] = seeded
        return replace(prompts, ids=ids)

    def _correct(self, rollout: Rollout) -> Tensor:
        return rollout.rewards > self.settings.correct_above

    def _score(self, chunks: Sequence[Chunk]) -> None:
        """Log-probabilities as the update will compute them: in the same batches, without dropout."""
        if not self.settings.scores_old and self.reference is None:
            return
        with self.writer.progress("log-probabilities", len(chunks)) as phase:
            for chunk in chunks:
                if len(chunk) and self.settings.scores_old:
                    chunk.old = self.scored(chunk)
                if len(chunk) and self.reference is not None:
                    with self.reference.in_place():
                        chunk.reference = self.scored(chunk)
                phase.advance()

    def scored(self, chunk: Chunk) -> Tensor:
        """The log-probabilities (B, L) of a chunk under the policy as it is now, without gradients."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(evaluation_mode(self.policy.module))
            stack.enter_context(self.context())
            settings = self.settings
            return score(self.policy, chunk, settings.temperature, settings.softmax_positions)[0]

    def _advantages(
        self, rollout: Rollout, rows: Tensor, chunks: Sequence[Chunk], seed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Advantages, shaped rewards and correctness (N,) of all completions."""
        advantages, shaped = torch.zeros(len(rollout), dtype=torch.float64), rollout.rewards.clone()
        correct = self._correct(rollout)
        if not len(rows):
            return advantages, shaped, correct
        lengths = rollout.lengths[rows]
        known = torch.zeros(len(rollout), int(lengths.max()), dtype=torch.float64)
        for chunk in chunks:
            if chunk.old is not None:
                known[chunk.rows.cpu(), : chunk.old.shape[1]] = chunk.old.cpu().double()
        completions = ScoredCompletions(
            rewards=rollout.rewards[rows],
            log_probabilities=known[rows],
            lengths=lengths,
            groups=rollout.group[rows].unique(return_inverse=True)[1],
            correct=correct[rows],
            parts={name: values[rows] for name, values in rollout.parts.items()},
            seed=seed,
        )
        shaped[rows], advantages[rows] = (
            found.double() for found in shaped_advantages(completions, self.shapers, self.advantage)
        )
        return advantages, shaped, correct
