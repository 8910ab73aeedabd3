"""The tokenizer that belongs to a module, and the tokens that end a completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from thunderstone import ArgumentError
from thunderstone.generation import GenerationError, end_tokens


def find_tokenizer(who: str, wanted: Any, trainer: Trainer, module: LightningModule) -> Any:
    """An object with `encode` and `decode`, or None where nobody has one.

    Args:
        who: Who asks, for messages.
        wanted: The object, the name of an attribute of the module or the data module that holds it, what Hugging
            Face's AutoTokenizer loads, or None for an attribute ``tokenizer``.
        trainer: Its data module is asked too.
        module: The LightningModule.

    Raises:
        ArgumentError: There is none of that name, or it does not encode and decode.
    """
    owners = [module, getattr(trainer, "datamodule", None)]
    if wanted is None or isinstance(wanted, str):
        name = wanted or "tokenizer"
        found = next((getattr(owner, name) for owner in owners if getattr(owner, name, None) is not None), None)
        if found is None and wanted is not None:
            found = _pretrained(who, wanted)
    else:
        found = wanted
    if found is not None and not all(callable(getattr(found, part, None)) for part in ("encode", "decode")):
        hint = "pass an object that has them, e.g. a Hugging Face tokenizer"
        raise ArgumentError(who, "tokenizer", wanted or "tokenizer", "it has no encode and decode", hint)
    return found


def _pretrained(who: str, name: str) -> Any:
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(name)
    except (ImportError, OSError, ValueError) as error:
        reason = f"module and data module have no such attribute, and AutoTokenizer does not load it: {error}"
        raise ArgumentError(who, "tokenizer", name, reason, "name an attribute, or a tokenizer of the hub") from error


def stop_tokens(who: str, wanted: Sequence[int] | None, tokenizer: Any, policy: nn.Module) -> Sequence[int] | None:
    """What ends a completion: the tokens that are `wanted`, or else those the tokenizer or the model declares.

    None where nobody declares one, with a warning: every completion then runs to its full length.
    """
    if wanted is not None:
        return list(wanted) or None
    for source in (tokenizer, policy):
        if source is not None:
            try:
                return end_tokens(source)
            except GenerationError:
                continue
    rank_zero_warn(
        f"{who}: neither tokenizer nor model declares an end token, so every completion runs to max_new_tokens and "
        "none counts as truncated. HINT: pass stop_tokens=[...], or stop_tokens=[] if that is meant."
    )
    return None
