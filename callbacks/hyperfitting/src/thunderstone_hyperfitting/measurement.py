"""What hyperfitting does to a model's texts: measured before, in between and after."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from thunderstone import Phase, Table, UnsupportedSettingError
from thunderstone.errors import ArgumentError
from thunderstone.generation import Generation, GenerationError, end_tokens, generate
from thunderstone.isolation import RandomState
from thunderstone_hyperfitting.held_out import held_out, sequences
from thunderstone_hyperfitting.measures import distinct_n, longest_overlap, repetition_n, self_bleu, type_token_ratio
from thunderstone_hyperfitting.predictions import prediction_statistics
from thunderstone_hyperfitting.text_coder import TextCoder, find_tokenizer

_LONG_OVERLAP = 10
_AT_ONCE = 64


class Measurement:
    """Takes the measures of one fit. Every process takes them alike; weights, modes and random states stay.

    Args:
        who: Who asks, for messages.
        contexts: How many held-out texts.
        context_length: Tokens of each that are continued.
        max_new_tokens: Tokens of a continuation.
        prompts: More texts to continue.
        tokenizer: See `find_tokenizer`.
        model: Name of the submodule that maps ids to logits, or None.
        tokens: Where a batch holds the ids; see `token_ids`.
        progress: Makes a phase that is shown while something is measured; see `Method.progress`.

    Attributes:
        measured_after: The number of epochs after which it was last measured.
    """

    def __init__(
        self,
        who: str,
        contexts: int,
        context_length: int,
        max_new_tokens: int,
        prompts: Sequence[str],
        tokenizer: str | None,
        model: str | None,
        tokens: str | None,
        progress: Callable[[str, float | None], Phase] = Phase,
    ) -> None:
        self._progress = progress
        self.measured_after = -1
        self._who, self._contexts, self._context_length = who, contexts, context_length
        self._max_new_tokens, self._prompts, self._tokenizer = max_new_tokens, prompts, tokenizer
        self._model_name, self._tokens = model, tokens
        self._training: tuple[Any, Sequence[int]] | None = None
        self._training_texts: list[Tensor] | None = None
        self._coder = TextCoder()
        self._texts: list[Tensor] = []
        self._beginnings: list[Tensor] = []
        self._stop: tuple[int, ...] | None = None
        self._before: list[list[int]] = []

    def trains_on(self, loader: Any, chosen: Sequence[int]) -> None:
        """Remember what is trained on, for the overlap of generated texts with it."""
        self._training = (loader, chosen)

    def open(self, trainer: Trainer, module: LightningModule) -> None:
        """Look up model, tokenizer and held-out texts, once training is about to start.

        Raises:
            ArgumentError: There is no such submodule or tokenizer.
            UnsupportedSettingError: There are no held-out texts, or no ids in them.
        """
        model = self._model(module)
        self._coder = find_tokenizer(self._who, self._tokenizer, trainer, module)
        self._stop = self._coder.stop_tokens
        if self._stop is None:
            try:
                self._stop = end_tokens(model)
            except GenerationError:
                # Neither ends its texts: all of them go on to their full length.
                self._stop = None
        self._texts = []
        if self._contexts:
            self._texts = held_out(self._who, trainer, self._contexts, self._context_length, self._tokens)
            if len(self._texts) < self._contexts:
                rank_zero_warn(
                    f"{self._who}: the validation data has {len(self._texts)} texts of more than "
                    f"{self._context_length} tokens, fewer than contexts={self._contexts}: it measures on all of them."
                )
            self._check_positions(model)
        encoded = [torch.tensor(self._coder.encode(prompt), dtype=torch.int64) for prompt in self._prompts]
        for prompt, ids in zip(self._prompts, encoded, strict=True):
            if not len(ids):
                raise ArgumentError(self._who, "prompts", prompt, "the tokenizer makes no token of it", "leave it out")
        self._beginnings = [*encoded, *(text[: self._context_length] for text in self._texts)]

    def before(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """Measure the model as it comes, and keep its texts to show them beside later ones."""
        found, continuations = self._measured(trainer, module)
        self._before = continuations
        return found

    def measure(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """Scalars by name, and the table ``generations``: prompt, before, after."""
        found, continuations = self._measured(trainer, module)
        earlier = self._before or [[] for _ in continuations]
        decode = self._coder.decode
        rows = [
            [decode(beginning.tolist()), decode(before), decode(after)]
            for beginning, before, after in zip(self._beginnings, earlier, continuations, strict=True)
        ]
        return {**found, "generations": Table(["prompt", "before", "after"], rows)}

    def _measured(self, trainer: Trainer, module: LightningModule) -> tuple[dict[str, Any], list[list[int]]]:
        model = self._model(module)
        found: dict[str, Any] = {}
        with trainer.precision_plugin.forward_context():
            if self._texts:
                with self._progress("predictions", len(self._texts)) as phase:
                    statistics = prediction_statistics(model, self._texts, after_texts=phase.advance)
                found["val_loss"] = statistics.pop("loss")
                found.update(statistics)
            generation = self._continued(model)
        found.update(diversity(generation))
        training = self._trained_on()
        if training:
            overlaps = longest_overlap(generation.tokens.cpu(), training, lengths=generation.lengths.cpu()).float()
            found["overlap"] = float(overlaps.mean())
            found[f"overlap_above_{_LONG_OVERLAP}"] = float((overlaps > _LONG_OVERLAP).float().mean())
        return found, generation.as_lists()

    def _continued(self, model: nn.Module) -> Generation:
        width = self._max_new_tokens
        try:
            with self._progress("continuations", width) as phase:
                return generate(
                    model,
                    self._beginnings,
                    width,
                    stop_tokens=self._stop,
                    max_sequences=_AT_ONCE,
                    on_progress=lambda share: phase.to(share * width),
                )
        except ArgumentError as error:
            setting = f"contexts of {max(map(len, self._beginnings))} tokens and max_new_tokens={self._max_new_tokens}"
            raise UnsupportedSettingError(self._who, setting, error.reason, error.hint) from error

    def _check_positions(self, model: nn.Module) -> None:
        limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        longest = max(map(len, self._texts))
        if isinstance(limit, int) and longest > limit:
            raise UnsupportedSettingError(
                self._who,
                f"validation texts of {longest} tokens",
                f"{type(model).__name__} has {limit} positions",
                "cut them in the dataset or the collate_fn of the validation loader",
            )

    def _trained_on(self) -> list[Tensor]:
        if self._training_texts is None:
            loader, chosen = self._training if self._training is not None else (None, ())
            random_state = RandomState()
            try:
                self._training_texts = list(sequences(self._who, loader, chosen, self._tokens)) if chosen else []
            finally:
                random_state.restore()
        return self._training_texts

    def _model(self, module: LightningModule) -> nn.Module:
        names = ", ".join(name for name, _ in module.named_children()) or "it has none"
        if self._model_name is None:
            if type(module).forward is LightningModule.forward:
                reason = f"{type(module).__name__} has no forward that would map ids to logits"
                raise ArgumentError(self._who, "model", None, reason, f"name the submodule that does ({names})")
            return module
        try:
            return module.get_submodule(self._model_name)
        except AttributeError as error:
            hint = f"name a submodule ({names}), or leave it out"
            raise ArgumentError(self._who, "model", self._model_name, "there is no such submodule", hint) from error

    def state_dict(self) -> dict[str, Any]:
        """The texts from before: a resumed run cannot generate them again."""
        return {"texts": [list(text) for text in self._before]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the texts from before."""
        self._before = [list(text) for text in state.get("texts", [])]


def diversity(generation: Generation) -> dict[str, float]:
    """Type-token ratio, distinct bigrams, repeated bigrams and self-BLEU of generated texts; see `measures`."""
    tokens, lengths = generation.tokens.cpu(), generation.lengths.cpu()
    found = {"type_token_ratio": float(type_token_ratio(tokens, lengths=lengths))}
    longer: Iterable[int] = lengths.tolist()
    if any(length > 1 for length in longer):
        found["distinct_2"] = float(distinct_n(tokens, lengths=lengths, n=2))
        found["repetition_2"] = float(repetition_n(tokens, lengths=lengths, n=2))
    if len(lengths) > 1 and int((lengths >= 4).sum()) > 1:
        found["self_bleu"] = float(self_bleu(tokens, lengths=lengths))
    return found
