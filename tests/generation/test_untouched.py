"""Generation leaves the module, the process and what a user holds as they were, also when it fails."""

from __future__ import annotations

import ast
import doctest
import random
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import thunderstone.generation
from thunderstone.generation import GenerationError, generate


class Restless(nn.Module):
    """Counts, draws and keeps running statistics in every forward, and fails on a text of `fails_at` tokens."""

    def __init__(self, fails_at=None):
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(9, 4), nn.BatchNorm1d(4), nn.Linear(4, 9)
        self.norm.momentum = 0.5
        self.calls, self.seen, self.fails_at = 0, [], fails_at
        self.register_buffer("total", torch.zeros(()))

    def forward(self, ids):
        self.calls += 1
        self.seen.append(ids.shape)
        self.total += ids.sum()
        self.extra = ids
        noise = torch.randn(()) + float(np.random.rand()) + random.random()
        if ids.shape[1] == self.fails_at:
            raise RuntimeError("no more")
        return self.head(self.norm(self.embedding(ids).mT).mT) + 0 * noise


def everything(module):
    plain = {key: value for key, value in vars(module).items() if not key.startswith("_")}
    return (
        {key: value.clone() for key, value in module.state_dict().items()},
        {name: child.training for name, child in module.named_modules()},
        {key: list(value) if isinstance(value, list) else value for key, value in plain.items()},
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("fails_at", [None, 4])
def test_nothing_of_the_module_or_the_process_changes(fails_at):
    module = Restless(fails_at)
    module.norm.eval()  # a mode of its own within a module that trains
    module.head.weight.grad = torch.ones(9, 4)
    before = everything(module)
    if fails_at:
        with pytest.raises(GenerationError, match="no more"):
            generate(module, [[1, 2]], 5, do_sample=True)
    else:
        generate(module, [[1, 2], [3]], 5, do_sample=True)
    after = everything(module)
    assert all(torch.equal(after[0][key], value) for key, value in before[0].items())
    assert after[1:] == before[1:]
    assert torch.equal(module.head.weight.grad, torch.ones(9, 4))


def test_a_hugging_face_model_keeps_its_modes_and_settings_after_a_failure(make_gpt2):
    model = make_gpt2(resid_pdrop=0.5).train()
    settings = model.generation_config

    def fail(ids, scores):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, [[3]], 5, processors=[fail])
    assert model.generation_config is settings
    assert all(child.training for child in model.modules())
    generate(model, [[3]], 5)
    assert all(child.training for child in model.modules())


def test_dropout_is_off_and_there_is_no_graph(only_ids):
    first = generate(only_ids.train(), [[1, 2]], 10, log_probabilities="module")
    torch.manual_seed(1)
    second = generate(only_ids, [[1, 2]], 10, log_probabilities="module")
    assert torch.equal(first.log_probabilities, second.log_probabilities)
    assert not first.log_probabilities.requires_grad
    assert only_ids.training


def test_training_goes_on_after_generation(make_gpt2):
    model = make_gpt2()
    generate(model, [[3, 4]], 5)
    ids = torch.tensor([[3, 4, 5]])
    model(ids, labels=ids).loss.backward()
    assert model.transformer.wte.weight.grad.abs().sum() > 0


def test_prompts_and_scores_of_the_user_stay(make_fixed):
    prompts = torch.tensor([[1, 2], [3, 0]])
    module = make_fixed([0.0, 1.0, 2.0, 3.0])
    kept, logits = prompts.clone(), module.logits.clone()

    def overwrite(ids, scores):
        return scores.fill_(0.0)

    assert generate(module, prompts, 3, processors=[overwrite]).tokens.tolist() == [[0, 0, 0]] * 2
    assert torch.equal(prompts, kept)
    assert torch.equal(module.logits, logits)


def test_transformers_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # importing it fails
    assert generate(nn.Embedding(5, 5), [[1]], 2).lengths.item() == 2


def test_transformers_is_not_imported_with_the_module():
    for path in Path(thunderstone.generation.__file__).parent.glob("*.py"):
        top = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if "Import" in type(node).__name__]
        assert not [node for node in top if "transformers" in ast.unparse(node)], path


@pytest.mark.parametrize("name", ["continuation", "end_tokens"])
def test_examples_in_docstrings_are_true(name):
    result = doctest.testmod(import_module(f"thunderstone.generation.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.gpu
def test_on_a_gpu_the_texts_are_those_of_the_cpu(hugging_face_model, prompts):
    expected = generate(hugging_face_model, prompts, 12, do_sample=True, generator=2).as_lists()
    on_gpu = hugging_face_model.cuda()
    before = torch.cuda.get_rng_state()
    found = generate(on_gpu, prompts, 12, do_sample=True, generator=2)
    assert found.tokens.is_cuda
    assert found.as_lists() == expected
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_module_is_not_compiled_for_every_length(only_ids, in_place):
    expected = generate(only_ids, [[1, 2, 3]], 6).as_lists()
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    if in_place:
        if not hasattr(torch.compiler, "set_stance"):
            pytest.skip("this torch cannot leave a compiled forward for the time being")
        only_ids.compile(backend=backend)
    module = only_ids if in_place else torch.compile(only_ids, backend=backend)
    assert generate(module, [[1, 2, 3]], 6).as_lists() == expected
    assert compiled == []


def test_half_precision_is_chosen_from_in_single(only_ids):
    found = generate(only_ids.bfloat16(), [[1, 2]], 6, do_sample=True, top_p=0.9, log_probabilities="sampling")
    assert found.log_probabilities.dtype is torch.float32
    assert found.log_probabilities.max() <= 0
