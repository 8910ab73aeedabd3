"""Continuations of prompts by a causal model, whatever its class: greedy and sampled, seeded exactly, leaving no trace.

Needs torch only; a Hugging Face model is recognised when one is passed.
"""

from thunderstone.generation.continuation import generate
from thunderstone.generation.end_tokens import end_tokens
from thunderstone.generation.errors import GenerationError
from thunderstone.generation.texts import Generation

__all__ = ["Generation", "GenerationError", "end_tokens", "generate"]
