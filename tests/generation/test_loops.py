"""Both loops give what a loop over single texts gives: whatever is batched, padded, cut or cached."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thunderstone.generation import Generation, generate


def one_by_one(module, prompts, width, stops=()):
    """Greedy decoding without a batch, a cache or padding: the definition."""
    module.eval()
    texts = []
    with torch.no_grad():
        for prompt in prompts:
            ids, text = torch.tensor([list(prompt)]), []
            while len(text) < width and not (text and text[-1] in stops):
                output = module(ids)
                logits = output if isinstance(output, torch.Tensor) else output.logits
                text.append(int(logits[0, -1].argmax()))
                ids = torch.cat([ids, torch.tensor([[text[-1]]])], dim=1)
            texts.append(text)
    return texts


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("max_sequences", [None, 2])
def test_hugging_face_models_continue_as_without_batch_and_cache(hugging_face_model, prompts, use_cache, max_sequences):
    expected = one_by_one(hugging_face_model, prompts, 20)
    assert len({tuple(text) for text in expected}) == len(prompts)
    found = generate(hugging_face_model, prompts, 20, use_cache=use_cache, max_sequences=max_sequences)
    assert found.as_lists() == expected
    assert not found.stopped.any()


@pytest.mark.parametrize("use_cache", [True, False])
def test_stop_tokens_end_texts(hugging_face_model, prompts, use_cache):
    free = one_by_one(hugging_face_model, prompts, 20)
    stops = (free[0][4], free[3][9])
    expected = one_by_one(hugging_face_model, prompts, 20, stops)
    found = generate(hugging_face_model, prompts, 20, use_cache=use_cache, stop_tokens=stops, pad_token=7)
    assert found.as_lists() == expected
    assert found.lengths.tolist() == [len(text) for text in expected]
    assert found.stopped.tolist() == [text[-1] in stops for text in expected]
    assert found.stopped[[0, 3]].all()
    assert found.tokens.shape == (5, max(map(len, expected)))
    assert (found.tokens[~found.mask] == 7).all()


def test_a_module_that_takes_only_ids_never_sees_padding(only_ids, prompts):
    expected = one_by_one(only_ids, prompts, 12)
    only_ids.shapes.clear()
    shapes = only_ids.shapes
    assert generate(only_ids, prompts, 12).as_lists() == expected
    assert shapes == []  # statistics kept in attributes are put back
    counted = []
    only_ids.register_forward_pre_hook(lambda module, inputs: counted.append(tuple(inputs[0].shape)))
    generate(only_ids, prompts, 2)
    assert counted == [(1, 1), (1, 2), (1, 3), (1, 4), (1, 4), (1, 5), (2, 7), (2, 8)]


def test_prompts_may_be_a_tensor_with_lengths(only_ids, prompts):
    padded = torch.full((5, 9), 40)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = torch.tensor(prompt)
    expected = generate(only_ids, prompts, 8)
    assert torch.equal(generate(only_ids, padded, 8, lengths=[len(p) for p in prompts]).tokens, expected.tokens)
    assert torch.equal(generate(only_ids, [torch.tensor(p) for p in prompts], 8).tokens, expected.tokens)


class Wrapped(nn.Module):
    """A forward with a mask and positions that returns an object, a mapping or a tensor."""

    def __init__(self, inner, form):
        super().__init__()
        self.inner, self.form = inner, form

    def forward(self, ids, attention_mask=None, position_ids=None):
        output = self.inner(ids, attention_mask=attention_mask, position_ids=position_ids)
        return {"object": output, "mapping": {"logits": output.logits}, "tensor": output.logits}[self.form]


@pytest.mark.parametrize("form", ["object", "mapping", "tensor"])
def test_modules_that_take_a_mask_get_one_batch(hugging_face_model, prompts, form):
    module = Wrapped(hugging_face_model, form)
    expected = one_by_one(hugging_face_model, prompts, 10)
    calls = []
    module.register_forward_pre_hook(lambda module, inputs: calls.append(tuple(inputs[0].shape)))
    assert generate(module, prompts, 10).as_lists() == expected
    assert calls == [(5, 7 + step) for step in range(10)]


def test_the_models_own_generation_settings_are_set_aside_and_kept(make_gpt2, prompts):
    model = make_gpt2()
    expected = one_by_one(model, prompts, 12)
    model.generation_config.update(
        do_sample=True, temperature=5.0, repetition_penalty=9.0, eos_token_id=expected[0][0], num_beams=3, max_length=2
    )
    settings = model.generation_config
    before = settings.to_dict()
    assert generate(model, prompts, 12).as_lists() == expected
    assert model.generation_config is settings
    assert settings.to_dict() == before


@pytest.mark.parametrize("use_cache", [True, False])
def test_log_probabilities_are_the_modules(hugging_face_model, prompts, use_cache):
    found = generate(hugging_face_model, prompts, 9, log_probabilities="module", use_cache=use_cache, stop_tokens=3)
    for row, (prompt, text) in enumerate(zip(prompts, found.as_lists(), strict=True)):
        with torch.no_grad():
            logits = hugging_face_model.eval()(torch.tensor([prompt + text])).logits[0].double()
        expected = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(text).unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(found.log_probabilities[row, : len(text)].double(), expected, rtol=1e-4, atol=1e-4)
    assert (found.log_probabilities[~found.mask] == 0).all()


@pytest.mark.parametrize("use_cache", [True, False])
def test_processors_see_each_text_without_padding(hugging_face_model, prompts, use_cache):
    seen = []

    def forbid_what_was_there(ids, scores):
        seen.extend(ids.tolist())
        return scores.scatter(1, ids, -torch.inf)

    found = generate(hugging_face_model, prompts, 6, processors=[forbid_what_was_there], use_cache=use_cache)
    texts = found.as_lists()
    for prompt, text in zip(prompts, texts, strict=True):
        assert len({*prompt, *text}) == len(set(prompt)) + 6
    expected = [prompt + text[:step] for prompt, text in zip(prompts, texts, strict=True) for step in range(6)]
    assert sorted(seen) == sorted(expected)


def test_a_mask_comes_from_lengths_and_not_from_ids():
    found = Generation(torch.tensor([[0, 0, 0], [5, 0, 0]]), torch.tensor([3, 1]), torch.tensor([False, True]))
    assert found.mask.tolist() == [[True] * 3, [True, False, False]]
    assert found.as_lists() == [[0, 0, 0], [5]]
