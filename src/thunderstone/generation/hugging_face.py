"""Generation with Hugging Face models through their own `generate`, which keeps the keys and values of past tokens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thunderstone.generation.choice import Choice
from thunderstone.generation.errors import GenerationError
from thunderstone.generation.forward import accepted
from thunderstone.generation.plain_loop import unpadded
from thunderstone.generation.prompts import left_padded
from thunderstone.generation.texts import GrowingTexts
from thunderstone.generation.watch import Watch


def has_own_loop(module: nn.Module) -> bool:
    """Whether the module is a Hugging Face model that can generate.

    Raises:
        GenerationError: It is an encoder-decoder, whose prompts are something else.
    """
    # Who holds such a model has imported transformers.
    if sys.modules.get("transformers") is None:
        return False
    from transformers import GenerationMixin

    if not isinstance(module, GenerationMixin):
        return False
    if getattr(getattr(module, "config", None), "is_encoder_decoder", False):
        raise GenerationError(
            f"{type(module).__name__} has an encoder and a decoder, and a prompt of one of them is no text so far",
            "use a causal language model, or the model's own generate",
        )
    return bool(getattr(module, "can_generate", lambda: True)())


def run(
    module: Any, prompts: list[Tensor], texts: GrowingTexts, choice: Choice, uniforms: Tensor, watch: Watch
) -> None:
    """Fill `texts` with continuations of the prompts, as `thunderstone.generation.plain_loop.run` does."""
    takes_mask = "attention_mask" in accepted(module)
    if takes_mask:
        batches = [list(range(len(prompts)))]
    else:  # a recurrent model reads padding as text
        lengths = sorted({len(prompt) for prompt in prompts})
        batches = [[i for i, prompt in enumerate(prompts) if len(prompt) == length] for length in lengths]
    for batch in batches:
        ids, mask = left_padded([prompts[row] for row in batch], 0)
        steps = _Steps(torch.tensor(batch, device=ids.device), mask, texts, choice, uniforms, watch)
        arguments = {"attention_mask": mask} if takes_mask else {}
        watch.begin(len(batch))
        with _neutral_configuration(module, texts.tokens.shape[1]):
            module.generate(ids, logits_processor=[steps], stopping_criteria=[steps.finished], **arguments)
        watch.end()


class _Steps:
    """Chooses each token inside the model's own loop, as a logits processor that leaves only the chosen one.

    The model then takes the most probable token, which is that one. So both loops choose by the same code and the same
    draws, and no global generator is drawn from.
    """

    def __init__(
        self, rows: Tensor, mask: Tensor, texts: GrowingTexts, choice: Choice, uniforms: Tensor, watch: Watch
    ) -> None:
        self.watch = watch
        self.rows, self.texts, self.choice, self.uniforms = rows, texts, choice, uniforms
        self.padding = (mask == 0).sum(dim=1)
        self.step = 0

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        # Finished texts stay in the model's batch; what it makes of them counts for nothing.
        going = (~self.texts.stopped[self.rows]).nonzero().squeeze(1)
        rows = self.rows[going]
        groups = unpadded(ids[going], self.padding[going]) if self.choice.processors else []
        uniforms = self.uniforms[rows.to(self.uniforms.device), self.step]
        tokens, log_probabilities = self.choice(groups, scores[going], uniforms)
        self.texts.append(rows, tokens, log_probabilities)
        self.step += 1
        self.watch.step()
        chosen = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
        chosen[going] = tokens
        return torch.full_like(scores, -torch.inf).scatter(1, chosen.unsqueeze(1), 0.0)

    def finished(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return self.texts.stopped[self.rows]


@contextmanager
def _neutral_configuration(module: Any, max_new_tokens: int) -> Iterator[None]:
    """Set the model's own generation settings aside: a checkpoint may bring sampling, penalties and end tokens."""
    import transformers

    configuration: Any = transformers.GenerationConfig
    own = module.generation_config
    module.generation_config = configuration(
        max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, use_cache=True
    )
    try:
        yield
    finally:
        module.generation_config = own
