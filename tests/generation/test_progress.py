"""How far generation is, as told to whoever asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from thunderstone.generation import generate

STOP = 9


class CountsUp(nn.Module):
    """The next token is one more."""

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.one_hot((ids + 1) % 10, 10).float()


def told(prompts: list[list[int]], max_sequences: int | None = None, width: int = 4, module: nn.Module | None = None):
    shares: list[float] = []
    found = generate(
        module if module is not None else CountsUp(),
        prompts,
        width,
        stop_tokens=STOP,
        max_sequences=max_sequences,
        on_progress=shares.append,
    )
    silent = generate(
        module if module is not None else CountsUp(), prompts, width, stop_tokens=STOP, max_sequences=max_sequences
    )
    assert torch.equal(found.tokens, silent.tokens)
    return shares


def test_texts_of_one_batch_go_token_by_token() -> None:
    assert told([[0], [1]]) == [0.25, 0.5, 0.75, 1.0]


def test_a_text_that_ends_early_does_not_shorten_the_batch() -> None:
    assert told([[0], [7]]) == [0.25, 0.5, 0.75, 1.0]


def test_a_batch_that_ends_early_is_done() -> None:
    assert told([[7], [7]]) == [0.25, 0.5, 1.0]


@pytest.mark.parametrize("prompts", [[[0], [0], [0, 1], [0, 1]], [[0]] * 4])
def test_batches_follow_one_another(prompts: list[list[int]]) -> None:
    # Of two lengths, which this module cannot be given together; or of one, two at a time.
    at_once = None if len(prompts[-1]) == 2 else 2
    assert told(prompts, max_sequences=at_once) == [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]


def test_a_models_own_loop_tells_the_same() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    configuration = transformers.GPT2Config(vocab_size=10, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    model = transformers.GPT2LMHeadModel(configuration).eval()
    shares: list[float] = []
    generate(model, [[1, 2], [3]], 5, on_progress=shares.append)
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
