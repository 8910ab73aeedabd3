"""Which tokens end a text, according to a tokenizer or a model."""

from __future__ import annotations

from typing import Any

from thunderstone.generation.errors import GenerationError


def end_tokens(source: Any) -> tuple[int, ...]:
    """The end tokens that a Hugging Face tokenizer or model declares, for `generate`'s `stop_tokens`.

    Looked for, in this order: ``source.eos_token_id``, ``source.generation_config.eos_token_id``,
    ``source.config.eos_token_id``.

    Args:
        source: A tokenizer or a model.

    Raises:
        GenerationError: It declares none.

    >>> class Tokenizer:
    ...     eos_token_id = 3
    >>> end_tokens(Tokenizer())
    (3,)
    """
    holders = (source, getattr(source, "generation_config", None), getattr(source, "config", None))
    for holder in holders:
        found = getattr(holder, "eos_token_id", None)
        if found is not None:
            return tuple(int(token) for token in found) if isinstance(found, (list, tuple)) else (int(found),)
    raise GenerationError(
        f"{type(source).__name__} declares no end token (eos_token_id)",
        "pass the token's id as stop_tokens=..., or leave stop_tokens out: texts then run to max_new_tokens",
    )
