"""From prompts to scored completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from thunderstone import ArgumentError, Phase, StepError, UnsupportedSettingError
from thunderstone.generation import Generation, GenerationError
from thunderstone_grpo.rewards import RewardRunner, Scores
from thunderstone_grpo.rollouts.engines import RolloutEngine, RolloutRequest
from thunderstone_grpo.rollouts.policy import Policy
from thunderstone_grpo.rollouts.prompts import PromptReader, Prompts
from thunderstone_grpo.rollouts.rollout import Rollout
from thunderstone_grpo.rollouts.sampling import Sampling

# What reward functions are given under these names is ours.
_TAKEN = ("prompts", "completion", "completions", "completion_ids", "trainer_state")


class Writer:
    """Has completions written and scored.

    Args:
        who: Who asks, for messages.
        policy: Whose completions.
        engine: Writes them.
        sampling: How they are drawn.
        stops: What ends one; None for nothing.
        reader: Decodes them.
        rewards: Scores them.
        context: The precision plug-in's, in which the policy runs.
        progress: Makes a phase that is shown while completions are written and scored; see `Method.progress`.
    """

    def __init__(
        self,
        who: str,
        policy: Policy,
        engine: RolloutEngine,
        sampling: Sampling,
        stops: Sequence[int] | None,
        reader: PromptReader,
        rewards: RewardRunner,
        context: Callable[[], AbstractContextManager[None]],
        progress: Callable[[str, float | None], Phase] = Phase,
    ) -> None:
        self.progress = progress
        self.who, self.policy, self.engine, self.sampling, self.stops = who, policy, engine, sampling, stops
        self.reader, self.rewards, self.context = reader, rewards, context
        self._told: set[tuple[str, str]] = set()

    def write(self, prompts: Prompts, counts: Sequence[int], generator: torch.Generator, state: Any) -> Rollout:
        """So many completions of each prompt, scored.

        Args:
            prompts: P prompts.
            counts: How many completions of each.
            generator: Where draws come from.
            state: What reward functions are given as ``trainer_state``.

        Raises:
            UnsupportedSettingError: A prompt leaves no room for its completion.
            StepError: The policy or the engine cannot write them.
        """
        rows = [prompt for prompt, count in enumerate(counts) for _ in range(count)]
        ids = [prompts.ids[row] for row in rows]
        self._check_room(ids)
        generation = self._generated(ids, max(counts), generator)
        tokens, lengths = generation.tokens.cpu(), generation.lengths.cpu().tolist()
        completions = [text[:length] for text, length in zip(tokens, lengths, strict=True)]
        lists = [text.tolist() for text in completions]
        shown = [prompts.shown[row] for row in rows]
        answers = self.reader.completions(prompts, lists)
        columns = {
            name: [values[row] for row in rows] for name, values in prompts.columns.items() if name not in _TAKEN
        }
        with self.progress("rewards", None):
            scores = self.rewards.score(shown, answers, lists, **columns, trainer_state=state)
        self._tell(scores, len(rows))
        truncated = ~generation.stopped.cpu() if self.stops else torch.zeros(len(rows), dtype=torch.bool)
        return Rollout(
            [text.cpu() for text in ids],
            completions,
            truncated,
            torch.tensor(rows, dtype=torch.int64),
            list(zip(shown, answers, strict=True)),
            scores.total.double(),
            {name: values.double() for name, values in scores.parts.items()},
            dict(scores.summary()),
            dict(scores.metrics),
        )

    def _tell(self, scores: Scores, count: int) -> None:
        """Warn of each way in which a reward function fails once; afterwards it is only counted."""
        for failure in scores.failures:
            if (failure.function, failure.kind) not in self._told:
                self._told.add((failure.function, failure.kind))
                rank_zero_warn(
                    f"{self.who}: the reward function {failure.function} gave no reward for {len(failure.rows)} of "
                    f"{count} completions ({failure.message}). They are left out and counted as "
                    f"unscorable_{failure.kind}; this is not said again."
                )

    def _generated(self, ids: list[Tensor], group_size: int, generator: torch.Generator) -> Generation:
        settings = self.sampling
        width = settings.max_new_tokens
        phase = self.progress(f"{len(ids)} completions", width)
        request = RolloutRequest(
            self.policy.module,
            ids,
            group_size,
            settings.max_new_tokens,
            settings.temperature,
            settings.top_k,
            settings.top_p,
            self.stops,
            settings.max_sequences,
            generator,
            lambda share: phase.to(share * width),
        )
        try:
            with phase, self.context():
                found = self.engine(request)
        except (GenerationError, ArgumentError) as error:
            raise StepError(f"{self.who}: no completions could be drawn: {error}") from error
        if not isinstance(found, Generation) or len(found.tokens) != len(ids):
            what = f"{len(found.tokens)} completions" if isinstance(found, Generation) else type(found).__name__
            raise StepError(
                f"{self.who}: the rollout engine returned {what} for {len(ids)} prompts. HINT: return a "
                "thunderstone.generation.Generation with one text for each prompt of the request, in its order"
            )
        return found

    def has_room(self, length: int) -> bool:
        """Whether a prompt of so many tokens leaves room for a completion."""
        limit = self.policy.positions
        # The last token is never an input.
        return limit is None or length + self.sampling.max_new_tokens - 1 <= limit

    def _check_room(self, ids: list[Tensor]) -> None:
        longest = max(len(text) for text in ids)
        if not self.has_room(longest):
            limit = self.policy.positions or 0
            most, room = limit - self.sampling.max_new_tokens + 1, limit - longest + 1
            hints = [
                *([f"leave prompts longer than {most} tokens out of the data"] if most > 0 else []),
                *([f"use max_new_tokens={room} or less"] if room > 0 else []),
            ]
            raise UnsupportedSettingError(
                self.who,
                f"a prompt of {longest} tokens and max_new_tokens={self.sampling.max_new_tokens}",
                f"{type(self.policy.module).__name__} has {limit} positions",
                ", or ".join(hints) or f"use both shorter prompts and a max_new_tokens below {limit}",
            )
