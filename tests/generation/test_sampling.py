"""What is drawn: the right distribution, from one's own generator, each text by itself."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderstone.generation import generate
from thunderstone.generation.choice import draw, sampling_scores


def reference(logits, temperature, top_k, top_p):
    """Probabilities of a draw, from the definitions, one token at a time."""
    weights = [math.exp((value - max(logits)) / temperature) for value in logits]
    order = sorted(range(len(logits)), key=lambda i: (-weights[i], i))
    kept = order[: top_k or len(order)]
    mass = sum(weights[i] for i in kept)
    if top_p is not None:
        nucleus, covered = [], 0.0
        for i in kept:
            nucleus.append(i)
            covered += weights[i] / mass
            if covered >= top_p:
                break
        kept = nucleus
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(logits))]


@settings(max_examples=150)
@given(
    st.lists(st.integers(-12, 12), min_size=1, max_size=12),
    st.sampled_from([0.1, 0.7, 1.0, 3.0]),
    st.one_of(st.none(), st.integers(1, 14)),
    st.one_of(st.none(), st.floats(0.011, 0.999).map(lambda p: round(p, 3) + 1e-4)),
)
def test_the_distribution_is_that_of_the_definitions(logits, temperature, top_k, top_p):
    values = [value / 3 for value in logits]
    scores = sampling_scores(torch.tensor([values], dtype=torch.float64), temperature, top_k, top_p)
    expected = torch.tensor(reference(values, temperature, top_k, top_p), dtype=torch.float64)
    torch.testing.assert_close(scores.softmax(-1)[0], expected, rtol=1e-9, atol=1e-12)


def test_it_is_also_that_of_hugging_face():
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(1)) * 3
    expected = logits
    for warper in (TemperatureLogitsWarper(0.8), TopKLogitsWarper(30), TopPLogitsWarper(0.7)):
        expected = warper(None, expected)
    torch.testing.assert_close(sampling_scores(logits, 0.8, 30, 0.7).softmax(-1), expected.softmax(-1))


@settings(max_examples=100)
@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20), st.integers(0, 1000))
def test_a_draw_is_the_inverse_of_the_cumulative_distribution(uniforms, seed):
    scores = torch.randn(1, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scores[0, seed % 9] = -torch.inf
    scores[0, 8] = -torch.inf
    scores = scores.expand(len(uniforms), 9)
    tokens = draw(scores, torch.tensor(uniforms, dtype=torch.float64))
    probabilities = scores[0].softmax(-1).tolist()
    for uniform, token in zip(uniforms, tokens.tolist(), strict=True):
        assert probabilities[token] > 0
        below = sum(probabilities[:token])
        assert below - 1e-12 <= uniform <= below + probabilities[token] + 1e-12


def test_frequencies_are_the_probabilities(make_fixed):
    logits = [0.0, 1.0, -math.inf, 2.0, -1.0]
    found = generate(make_fixed(logits), [[0]] * 400, 50, do_sample=True, temperature=1.5, top_k=3, generator=4)
    counts = torch.bincount(found.tokens.flatten(), minlength=5) / found.tokens.numel()
    expected = torch.tensor(reference([-1e9 if math.isinf(x) else x for x in logits], 1.5, 3, None))
    # 20 000 draws: four standard errors are at most 0.0142.
    torch.testing.assert_close(counts, expected, atol=0.0142, rtol=0)


@pytest.mark.parametrize("use_cache", [True, False])
def test_texts_depend_on_the_seed_and_on_nothing_else(hugging_face_model, prompts, use_cache):
    arguments = {"do_sample": True, "temperature": 2.0, "top_p": 0.9}
    expected = generate(hugging_face_model, prompts, 10, generator=3, use_cache=False, **arguments).as_lists()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    arguments["use_cache"] = use_cache
    for max_sequences in (None, 1, 2):
        found = generate(hugging_face_model, prompts, 10, generator=3, max_sequences=max_sequences, **arguments)
        assert found.as_lists() == expected
    own = torch.Generator().manual_seed(3)
    assert generate(hugging_face_model, prompts, 10, generator=own, **arguments).as_lists() == expected
    assert generate(hugging_face_model, prompts, 10, generator=own, **arguments).as_lists() != expected
    # Ending early does not change what the others draw.
    stopped = generate(hugging_face_model, prompts, 10, generator=3, stop_tokens=expected[0][2], **arguments).as_lists()
    for text, full in zip(stopped, expected, strict=True):
        assert text == full[: len(text)]
    assert torch.equal(torch.get_rng_state(), before)


def test_log_probabilities_of_what_was_drawn_from(make_fixed):
    logits = [0.0, 1.0, 0.5, 2.0]
    settings_ = {"do_sample": True, "temperature": 0.7, "top_p": 0.8}
    found = generate(make_fixed(logits), [[0]] * 9, 5, log_probabilities="sampling", **settings_)
    expected = torch.tensor(reference(logits, 0.7, None, 0.8)).log()[found.tokens]
    torch.testing.assert_close(found.log_probabilities, expected)
    found = generate(make_fixed(logits), [[0]] * 9, 5, log_probabilities="module", **settings_)
    torch.testing.assert_close(found.log_probabilities, torch.tensor(logits).log_softmax(0)[found.tokens])


def test_a_tiny_temperature_is_greedy(make_fixed):
    found = generate(make_fixed([0.0, 1e4, 2e4, -3e4]), [[0]], 8, do_sample=True, temperature=1e-30)
    assert found.as_lists() == [[2] * 8]
