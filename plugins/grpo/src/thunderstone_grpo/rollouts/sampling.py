"""How completions are drawn, checked once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thunderstone import ArgumentError
from thunderstone.arguments import finite, whole


@dataclass(frozen=True)
class Sampling:
    """Settings of generation, as `RolloutRequest` has them."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    max_sequences: int | None

    @classmethod
    def checked(
        cls, who: str, max_new_tokens: Any, temperature: Any, top_k: Any, top_p: Any, max_sequences: Any
    ) -> Sampling:
        """The settings, or ArgumentError."""
        return cls(
            whole(who, "max_new_tokens", max_new_tokens, "say how many tokens a completion may have, e.g. 256"),
            finite(who, "temperature", temperature, "1 samples from the policy itself", above=0),
            None if top_k is None else whole(who, "top_k", top_k, "None keeps all tokens"),
            None if top_p is None else finite(who, "top_p", top_p, "1 keeps all tokens", above=0, maximum=1),
            None if max_sequences is None else whole(who, "max_sequences", max_sequences, "None runs all at once"),
        )


def checked_stop_tokens(who: str, tokens: Any) -> list[int] | None:
    """A list of ids, None for what tokenizer or model declare; or ArgumentError."""
    if tokens is None:
        return None
    hint = "pass a list of ids, e.g. [2]; None asks the tokenizer and then the model, [] ends no completion"
    if isinstance(tokens, str) or not isinstance(tokens, Sequence):
        raise ArgumentError(who, "stop_tokens", tokens, f"it is of type {type(tokens).__name__}", hint)
    return [whole(who, "stop_tokens", token, hint, minimum=0) for token in tokens]


def seeded_generator(*parts: object) -> torch.Generator:
    """A generator on the CPU whose seed is made of what tells it apart: the same parts, the same draws.

    So there is no state to be kept: a rollout is drawn by the seed, the rank and the number of the batch.
    """
    digest = hashlib.blake2b(" ".join(map(str, parts)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
