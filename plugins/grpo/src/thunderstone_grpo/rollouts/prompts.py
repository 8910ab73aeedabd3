"""Prompts and their columns out of a batch of the training loader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from thunderstone import UnsupportedSettingError

_HINT = (
    "let the loader yield strings, chat messages, dictionaries with a 'prompt' column, or 'input_ids' (with an "
    "attention_mask where they are padded)"
)


@dataclass
class Prompts:
    """The prompts of a batch.

    Attributes:
        ids: Of each prompt, (T,) int64.
        shown: Of each prompt, what reward functions are given: the text, the messages, or the decoded ids (the ids
            themselves where nothing decodes them).
        columns: What else the batch holds, a list a column with an entry for each prompt.
        chat: Whether prompts are chat messages, and completions are to be too.
    """

    ids: list[Tensor]
    shown: list[Any]
    columns: dict[str, list[Any]]
    chat: bool = False

    def __len__(self) -> int:
        return len(self.ids)


class PromptReader:
    """Reads batches: strings, chat messages, dictionaries with a ``prompt`` column, or ids.

    Args:
        who: Who asks, for messages.
        tokenizer: Has `encode` and `decode`, and `apply_chat_template` where prompts are messages; None where prompts
            are ids and completions stay ids.
        column: Name of the column that holds the prompts.
        collated: Whether batches come from torch's default collation. It takes lists apart: ids that are lists arrive
            as a tensor for each position, and chat messages as one message with all contents.
    """

    def __init__(self, who: str, tokenizer: Any, column: str = "prompt", collated: bool = False) -> None:
        self.who, self.tokenizer, self.column, self.collated = who, tokenizer, column, collated

    def read(self, batch: Any) -> Prompts:
        """The prompts of a batch.

        Raises:
            UnsupportedSettingError: It holds no prompts, or such that cannot be made into ids.
        """
        found = self._read(batch)
        if not found.ids:
            raise UnsupportedSettingError(self.who, "an empty batch", "there is no prompt in it", _HINT)
        for index, ids in enumerate(found.ids):
            if not len(ids):
                hint = "begin it with the tokenizer's beginning-of-text token, or leave it out"
                raise UnsupportedSettingError(self.who, f"prompt {index} of a batch", "it has no token", hint)
        for name, values in found.columns.items():
            if len(values) != len(found.ids):
                raise UnsupportedSettingError(
                    self.who,
                    f"a column {name!r} of {len(values)} entries for {len(found.ids)} prompts",
                    "reward functions are given one entry for each completion",
                    "let every column of the batch have an entry for each prompt",
                )
        return found

    def decode(self, ids: Sequence[int]) -> Any:
        """The text of ids without special tokens, or the ids where nothing decodes them."""
        if self.tokenizer is None:
            return list(ids)
        try:
            return self.tokenizer.decode(list(ids), skip_special_tokens=True)
        except TypeError:
            # A tokenizer of one's own knows no special tokens.
            return self.tokenizer.decode(list(ids))

    def completions(self, prompts: Prompts, texts: list[list[int]]) -> list[Any]:
        """Completions as reward functions are given them: texts, or an assistant's messages."""
        decoded = [self.decode(ids) for ids in texts]
        return [[{"role": "assistant", "content": text}] for text in decoded] if prompts.chat else decoded

    def _read(self, batch: Any) -> Prompts:
        if isinstance(batch, Tensor):
            return self._from_ids(batch, None, {})
        if isinstance(batch, Mapping):
            return self._from_columns({str(name): value for name, value in batch.items()})
        if isinstance(batch, (list, tuple)) and batch:
            first = batch[0]
            if isinstance(first, Mapping) and "role" not in first:
                names = list(first)
                return self._from_columns({name: [row[name] for row in batch] for name in names})
            if isinstance(first, Tensor):
                # What default collation makes of a TensorDataset: ids, and columns without a name.
                return self._from_ids(first, None, {f"column_{n}": value for n, value in enumerate(batch[1:], 1)})
            return self._from_texts(list(batch), {})
        self._refuse(batch)

    def _from_columns(self, columns: dict[str, Any]) -> Prompts:
        if self.column in columns:
            prompts = columns.pop(self.column)
            mask = columns.pop("attention_mask", None)
            if isinstance(prompts, Tensor):
                return self._from_ids(prompts, mask, columns)
            return self._from_texts(list(prompts), columns, mask)
        if "input_ids" in columns:
            return self._from_ids(columns.pop("input_ids"), columns.pop("attention_mask", None), columns)
        raise UnsupportedSettingError(
            self.who,
            f"a batch with the columns {', '.join(map(repr, columns)) or 'of none'}",
            f"there is neither {self.column!r} nor 'input_ids'",
            "name the column that holds the prompts with prompt_column='...'",
        )

    def _from_ids(self, ids: Any, mask: Any, columns: Mapping[str, Any]) -> Prompts:
        if not isinstance(ids, (Tensor, list, tuple)):
            self._refuse(ids)
        if self.collated and not isinstance(ids, Tensor):
            self._refuse_collated("lists of ids")
        rows = list(ids)
        marks = list(mask) if mask is not None else [None] * len(rows)
        texts = []
        for row, mark in zip(rows, marks, strict=True):
            tokens = torch.as_tensor(row)
            if tokens.dim() != 1 or tokens.is_floating_point() or tokens.dtype is torch.bool:
                self._refuse(ids)
            texts.append(tokens.long() if mark is None else tokens.long()[torch.as_tensor(mark).bool()])
        return Prompts(texts, [self.decode(text.tolist()) for text in texts], _listed(columns))

    def _from_texts(self, prompts: list[Any], columns: Mapping[str, Any], mask: Any = None) -> Prompts:
        if self.collated and prompts and isinstance(prompts[0], Mapping):
            self._refuse_collated("chat messages")
        chat = all(isinstance(prompt, (list, tuple)) and _is_message(prompt) for prompt in prompts)
        if not chat and not all(isinstance(prompt, str) for prompt in prompts):
            if all(isinstance(prompt, (Tensor, list, tuple)) for prompt in prompts):
                return self._from_ids(prompts, mask, columns)
            self._refuse(prompts)
        if self.tokenizer is None:
            raise UnsupportedSettingError(
                self.who,
                "prompts that are texts",
                "there is no tokenizer that makes ids of them",
                "give the module an attribute 'tokenizer', pass tokenizer=..., or let the loader yield input_ids",
            )
        return Prompts([self.encode(prompt) for prompt in prompts], prompts, _listed(columns), chat)

    def encode(self, prompt: Any) -> Tensor:
        """The ids (T,) of a text or of chat messages, which end with what an assistant's answer begins after."""
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt)
        else:
            template = getattr(self.tokenizer, "apply_chat_template", None)
            if template is None:
                raise UnsupportedSettingError(
                    self.who,
                    f"chat messages and a tokenizer of type {type(self.tokenizer).__name__}",
                    "it has no apply_chat_template",
                    "let the loader yield texts",
                )
            ids = template(list(prompt), tokenize=True, add_generation_prompt=True, return_dict=False)
        return torch.as_tensor(list(ids), dtype=torch.int64)

    def _refuse_collated(self, prompts: str) -> NoReturn:
        raise UnsupportedSettingError(
            self.who,
            f"{prompts} and the DataLoader's default collation",
            "it takes lists apart, so that the first of a batch are the first entries of all prompts",
            "use DataLoader(..., collate_fn=list), which leaves the samples as they are",
        )

    def _refuse(self, batch: Any) -> NoReturn:
        kind = f"{type(batch).__name__}"
        if isinstance(batch, Tensor):
            kind = f"a tensor of shape {tuple(batch.shape)} and dtype {batch.dtype}"
        elif isinstance(batch, (list, tuple)) and batch:
            kind = f"a {type(batch).__name__} of {type(batch[0]).__name__}"
        raise UnsupportedSettingError(self.who, f"a batch that is {kind}", "it holds no prompts", _HINT)


def _is_message(prompt: Sequence[Any]) -> bool:
    return bool(prompt) and all(isinstance(message, Mapping) and "role" in message for message in prompt)


def _listed(columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: value.tolist() if isinstance(value, Tensor) else list(value) for name, value in columns.items()}
