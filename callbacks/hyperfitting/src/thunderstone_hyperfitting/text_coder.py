"""Turning texts into token ids and back, with whatever tokenizer there is."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from thunderstone import ArgumentError
from thunderstone.generation import GenerationError, end_tokens


class TextCoder:
    """A tokenizer of Hugging Face's `transformers` or `tokenizers`, or anything with `encode` and `decode`.

    Args:
        tokenizer: The tokenizer, or None: ids are shown as they are, and no text can be encoded.
    """

    def __init__(self, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer

    @property
    def stop_tokens(self) -> tuple[int, ...] | None:
        """Its end tokens; None where it has none, and texts go on to their full length."""
        if self.tokenizer is None:
            return None
        try:
            return end_tokens(self.tokenizer)
        except GenerationError:
            return None

    def encode(self, text: str) -> list[int]:
        """The ids of a text, of which there may be none."""
        encoded = self.tokenizer.encode(text)
        return [int(token) for token in getattr(encoded, "ids", encoded)]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some ids."""
        if self.tokenizer is None:
            return " ".join(map(str, tokens))
        return str(self.tokenizer.decode(list(tokens)))


def find_tokenizer(who: str, name: str | None, trainer: Trainer, module: LightningModule) -> TextCoder:
    """The tokenizer a name stands for.

    It is an attribute of the module or its data module, ``"package.module:name"``, or what Hugging Face's AutoTokenizer
    finds on this machine.

    Raises:
        ArgumentError: There is none, or it can neither encode nor decode.
    """
    if name is None:
        return TextCoder()
    hint = 'name an attribute of the module ("tokenizer"), "package.module:name", or a folder that AutoTokenizer loads'
    found: Any = None
    for owner in (module, getattr(trainer, "datamodule", None)):
        found = found if found is not None else _attribute(owner, name)
    if found is None:
        try:
            found = _imported(name) if ":" in name else _pretrained(name)
        except Exception as error:
            reason = f"the module has no such attribute, and loading it failed: {type(error).__name__}: {error}"
            raise ArgumentError(who, "tokenizer", name, reason, hint) from error
    if not callable(getattr(found, "encode", None)) or not callable(getattr(found, "decode", None)):
        raise ArgumentError(who, "tokenizer", name, f"a {type(found).__name__} has no encode and decode", hint)
    return TextCoder(found)


def _attribute(owner: Any, name: str) -> Any:
    for part in name.split("."):
        owner = getattr(owner, part, None)
    return owner


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _pretrained(name: str) -> Any:
    from transformers import AutoTokenizer

    # Never fetched behind the user's back: what is not there is an error.
    return AutoTokenizer.from_pretrained(name, local_files_only=True)
