"""Switching dropout off in a module, and on again."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import nn

# What layers call the probability they drop something with: torch's recurrent and attention layers, Hugging Face's and
# timm's models, torchvision's stochastic depth.
_PROBABILITY = re.compile(r"dropout|layer_?drop|pdrop$|^drop_(prob|path|rate)|^(attn|proj|pos|head)_drop")
_KEEP_IT_IN_P = re.compile(r"dropout|droppath|stochasticdepth", re.IGNORECASE)


def without_dropout(module: nn.Module) -> tuple[list[str], Callable[[], None]]:
    """Set every dropout probability that a module or one of its parts holds in an attribute to 0.

    That is ``p`` of dropout layers, and numbers between 0 and 1 under names such as ``dropout``, ``attention_dropout``,
    ``attn_pdrop``, ``drop_path`` or ``layerdrop``. What code reads from elsewhere (``self.hparams.dropout``, or a
    number in ``nn.functional.dropout(x, 0.1)``) is not seen.

    Returns:
        The qualified names of what was switched off, and the function that puts the probabilities back.
    """
    found: list[tuple[str, dict[str, Any], str, Any]] = []
    for path, child in module.named_modules():
        attributes = vars(child)
        for key, value in attributes.items():
            if _is_probability(child, key, value):
                found.append((f"{path}.{key}" if path else key, attributes, key, value))
    for _, attributes, key, _ in found:
        attributes[key] = 0.0

    def put_back() -> None:
        for _, attributes, key, value in found:
            attributes[key] = value

    return [name for name, *_ in found], put_back


def _is_probability(child: nn.Module, key: str, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        return False
    return bool(_PROBABILITY.search(key)) or (key == "p" and bool(_KEEP_IT_IN_P.search(type(child).__name__)))
