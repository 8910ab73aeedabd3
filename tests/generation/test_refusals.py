"""Bad input is refused by name, and nothing hangs."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from thunderstone import ArgumentError
from thunderstone.generation import GenerationError, end_tokens, generate


@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        ("max_new_tokens", {"max_new_tokens": 0}),
        ("max_new_tokens", {"max_new_tokens": 2.5}),
        ("temperature", {"do_sample": True, "temperature": 0.0}),
        ("temperature", {"do_sample": True, "temperature": -1.0}),
        ("temperature", {"do_sample": True, "temperature": math.nan}),
        ("top_p", {"do_sample": True, "top_p": 0.0}),
        ("top_p", {"do_sample": True, "top_p": 1.2}),
        ("top_k", {"do_sample": True, "top_k": 0}),
        ("temperature", {"temperature": 0.5}),
        ("top_k", {"top_k": 5}),
        ("top_p", {"top_p": 0.5}),
        ("do_sample", {"do_sample": "yes"}),
        ("generator", {"generator": "seed"}),
        ("generator", {"generator": -1}),
        ("stop_tokens", {"stop_tokens": -1}),
        ("stop_tokens", {"stop_tokens": ["</s>"]}),
        ("processors", {"processors": [3]}),
        ("log_probabilities", {"log_probabilities": "all"}),
        ("max_sequences", {"max_sequences": 0}),
        ("max_positions", {"max_positions": 0}),
        ("pad_token", {"pad_token": -1}),
        ("use_cache", {"use_cache": 1}),
        ("module", {"module": "gpt2"}),
        ("prompts", {"prompts": []}),
        ("prompts", {"prompts": "text"}),
        ("prompts", {"prompts": ["text"]}),
        ("prompts", {"prompts": [[1], []]}),
        ("prompts", {"prompts": [[1, -100]]}),
        ("prompts", {"prompts": [[0.5]]}),
        ("prompts", {"prompts": torch.zeros(2, 3)}),
        ("prompts", {"prompts": torch.zeros(3, dtype=torch.long)}),
        ("prompts", {"prompts": torch.zeros(2, 0, dtype=torch.long)}),
        ("lengths", {"prompts": torch.zeros(2, 3, dtype=torch.long), "lengths": [3, 4]}),
        ("lengths", {"prompts": torch.zeros(2, 3, dtype=torch.long), "lengths": [3]}),
        ("lengths", {"prompts": torch.zeros(2, 3, dtype=torch.long), "lengths": [1.5, 2]}),
        ("lengths", {"prompts": [[1]], "lengths": [1]}),
        ("prompts", {"prompts": torch.zeros(2, 3, dtype=torch.long), "lengths": [3, 0]}),
    ],
)
def test_bad_arguments_are_named(only_ids, argument, arguments):
    with pytest.raises(ArgumentError, match=r"^generate: .*HINT") as caught:
        generate(**{"module": only_ids, "prompts": [[1, 2]], "max_new_tokens": 3, **arguments})
    assert caught.value.argument == argument


def test_a_context_longer_than_the_positions_is_refused_before_anything_runs(hugging_face_model):
    with pytest.raises(ArgumentError, match=r"60 tokens, and .* has 64 positions.*at most 5 tokens"):
        generate(hugging_face_model, [[3] * 60, [4]], 6)
    with pytest.raises(ArgumentError, match="shorten the prompts to 64 tokens"):
        generate(hugging_face_model, [[3] * 70], 1)
    # The last token needs no position, as it is never an input.
    assert generate(hugging_face_model, [[3] * 60], 5).lengths.tolist() == [5]


def test_a_limit_that_no_configuration_tells_is_an_argument_or_a_clear_failure(only_ids):
    with pytest.raises(ArgumentError, match="has 64 positions"):
        generate(only_ids, [[3] * 60], 9, max_positions=64)
    with pytest.raises(GenerationError, match=r"OnlyIds failed on ids of shape \(1, 65\).*max_positions"):
        generate(only_ids, [[3] * 60], 9)


def test_ids_beyond_the_vocabulary_are_named(hugging_face_model, only_ids):
    with pytest.raises(ArgumentError, match="41 tokens") as caught:
        generate(hugging_face_model, [[3], [41]], 2)
    assert (caught.value.argument, caught.value.value) == ("prompts", 41)
    with pytest.raises(ArgumentError, match="41 tokens") as caught:
        generate(hugging_face_model, [[3]], 2, stop_tokens=50256)
    assert (caught.value.argument, caught.value.value) == ("stop_tokens", 50256)
    with pytest.raises(GenerationError, match="IndexError"):
        generate(only_ids, [[41]], 2)


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ([0.0, math.nan, 1.0], "hold NaN"),
        ([0.0, math.inf, 1.0], r"hold \+inf"),
        ([-math.inf] * 3, "forbid every token"),
        ([1, 2, 3], "torch.int64"),
    ],
)
def test_logits_nothing_can_be_chosen_from(make_fixed, logits, message, sample):
    with pytest.raises(GenerationError, match=f"the logits.*{message}"):
        generate(make_fixed(logits), [[0], [1]], 3, do_sample=sample)


@pytest.mark.parametrize("sample", [False, True])
def test_a_diverged_hugging_face_model_is_named_too(hugging_face_model, sample):
    with torch.no_grad():
        next(hugging_face_model.parameters()).fill_(math.nan)
    with pytest.raises(GenerationError, match="the logits hold NaN"):
        generate(hugging_face_model, [[3]], 3, do_sample=sample)


def test_a_processor_that_breaks_the_scores_is_named(make_fixed):
    def forbid_all(ids, scores):
        return scores - torch.inf

    with pytest.raises(GenerationError, match="forbid_all returned forbid every token"):
        generate(make_fixed([0.0, 1.0]), [[0]], 3, processors=[forbid_all])
    with pytest.raises(GenerationError, match=r"<lambda> returned \(1,\)"):
        generate(make_fixed([0.0, 1.0]), [[0]], 3, processors=[lambda ids, scores: scores[:, 0]])


@pytest.mark.parametrize("output", [lambda ids: ids.float(), lambda ids: None, lambda ids: (ids,)])
def test_a_module_without_logits_is_named(output):
    class Odd(nn.Module):
        def forward(self, ids):
            return output(ids)

    with pytest.raises(GenerationError, match=r"Odd returned .*logits of shape"):
        generate(Odd(), [[1, 2]], 3)


def test_end_tokens_of_tokenizers_and_models(make_gpt2):
    assert end_tokens(make_gpt2()) == (2,)
    assert end_tokens(SimpleNamespace(eos_token_id=[5, 7])) == (5, 7)
    assert end_tokens(SimpleNamespace(eos_token_id=None, config=SimpleNamespace(eos_token_id=0))) == (0,)
    with pytest.raises(GenerationError, match=r"^generate: SimpleNamespace declares no end token.*max_new_tokens"):
        end_tokens(SimpleNamespace(eos_token_id=None))
    with pytest.raises(GenerationError, match="Embedding declares no end token"):
        end_tokens(nn.Embedding(3, 3))


def test_an_encoder_decoder_is_refused():
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(GenerationError, match="encoder and a decoder"):
        generate(model, [[3]], 3)


def test_errors_survive_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(GenerationError("the logits hold NaN", "train less")))
    assert (error.problem, error.hint) == ("the logits hold NaN", "train less")
