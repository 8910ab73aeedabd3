"""A token for every character of arithmetic."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from thunderstone import ArgumentError

CHARACTERS = "0123456789+-×÷*/=()., ²³;\n"


class CharacterTokenizer:
    """Characters as ids, with one token for padding and one for the end. The part of a tokenizer that rollouts need.

    Args:
        characters: The alphabet; ids begin at 2, in its order.

    Raises:
        ArgumentError: A character is there twice.
    """

    pad_token_id = 0
    eos_token_id = 1

    def __init__(self, characters: str = CHARACTERS) -> None:
        if len(set(characters)) != len(characters):
            hint = "name every character once"
            raise ArgumentError(type(self).__name__, "characters", characters, "a character is there twice", hint)
        self.characters = characters
        self._ids = {character: place + 2 for place, character in enumerate(characters)}

    def __len__(self) -> int:
        return len(self.characters) + 2

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Ids of a text; with special tokens the end comes after it.

        Raises:
            ArgumentError: A character is not in the alphabet.
        """
        unknown = next((character for character in text if character not in self._ids), None)
        if unknown is not None:
            hint = "add it to characters=..., or leave it out of the text"
            raise ArgumentError(type(self).__name__, "text", text[:80], f"{unknown!r} is not in the alphabet", hint)
        return [self._ids[character] for character in text] + [self.eos_token_id] * add_special_tokens

    def decode(self, ids: Iterable[int] | Tensor, skip_special_tokens: bool = True) -> str:
        """The text of ids; padding and end are left out, or shown as ``<pad>`` and ``<end>``."""
        special = ("", "") if skip_special_tokens else ("<pad>", "<end>")
        numbers = ids.tolist() if isinstance(ids, Tensor) else ids
        return "".join(special[i] if i < 2 else self.characters[i - 2] for i in numbers)
