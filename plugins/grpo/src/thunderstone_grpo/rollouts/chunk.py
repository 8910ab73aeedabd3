"""Completions that go through the policy together, and the buffer they are cut from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor


@dataclass
class Chunk:
    """Completions that one step computes the loss of. They were scored in this very batch.

    Attributes:
        ids: (B, T) int64, prompt and completion, padded on the right.
        prompt_lengths: (B,) int64.
        lengths: (B,) int64, of the completions.
        counted: (B,) bool: whether the loss sees the completion (not where truncated ones are left out).
        advantages: (B,) floating point.
        rows: (B,) int64, where in the rollout each completion stands.
        old: (B, L) log-probabilities at the time of the rollout, 0 after the length; None until they are known.
        reference: The same of the reference; None without one.
    """

    ids: Tensor
    prompt_lengths: Tensor
    lengths: Tensor
    counted: Tensor
    advantages: Tensor
    rows: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mask(self) -> Tensor:
        """(B, L) bool, the tokens that count. From lengths: a pad token may also be generated."""
        width = int(self.lengths.max()) if len(self) else 0
        places = torch.arange(width, device=self.lengths.device)
        return (places < self.lengths.unsqueeze(1)) & self.counted.unsqueeze(1)

    def totals(self) -> list[int]:
        """How many tokens and how many completions count."""
        return [int(self.lengths[self.counted].sum()), int(self.counted.sum())]

    def state_dict(self) -> dict[str, Any]:
        """Tensors by name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: torch.device) -> Chunk:
        """The inverse of `state_dict`, on a device."""
        values: dict[str, Any] = {name: None if value is None else value.to(device) for name, value in state.items()}
        return cls(**values)


@dataclass
class Buffer:
    """One rollout, cut into chunks that are gone through several times.

    Attributes:
        first: Number of the batch with which it began, counted since training began.
        chunks: The minibatches.
        passes: How often they are gone through.
        totals: Tokens and completions of each chunk over all replicas, (chunks, 2) int64 on the CPU.
        group: (rows,) int64 on the CPU: the prompt that each completion of the rollout answers.
        correct: (rows,) bool on the CPU: which of them were right.
        notes: Figures of its steps, summed up until they are recorded.
    """

    first: int
    chunks: list[Chunk]
    passes: int
    totals: Tensor
    group: Tensor
    correct: Tensor
    notes: dict[str, Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """How many batches of the loader it is worth."""
        return self.passes * len(self.chunks)

    def place(self, number: int) -> int:
        """Which of its steps the batch of a number is; out of range where it belongs to another rollout."""
        return number - self.first

    def holds(self, number: int) -> bool:
        """Whether a batch is one of its steps."""
        return 0 <= self.place(number) < self.steps

    def chunk(self, number: int) -> int:
        """Which chunk a batch is the step of."""
        return self.place(number) % len(self.chunks)

    def of_update(self, chunk: int, accumulate: int) -> tuple[int, int]:
        """Tokens and completions, over all replicas, of the update that a chunk is part of."""
        start = chunk // accumulate * accumulate
        tokens, completions = self.totals[start : start + accumulate].sum(dim=0).tolist()
        return int(tokens), int(completions)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives."""
        state = {part.name: getattr(self, part.name) for part in fields(self)}
        return {**state, "chunks": [chunk.state_dict() for chunk in self.chunks], "notes": dict(self.notes)}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: torch.device) -> Buffer:
        """The inverse of `state_dict`, the chunks on a device."""
        chunks = [Chunk.from_state_dict(chunk, device) for chunk in state["chunks"]]
        notes = {name: value.to(device) for name, value in state["notes"].items()}
        return cls(**{**state, "chunks": chunks, "notes": notes})
