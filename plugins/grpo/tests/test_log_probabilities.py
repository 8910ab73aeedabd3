"""Log-probabilities and entropies of tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical

from thunderstone import ArgumentError
from thunderstone_grpo.log_probabilities import length_mask, mean_log_probabilities, token_log_probabilities


def sample(batch=3, width=5, words=7, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, width, words, generator=generator, dtype=dtype)
    return logits, torch.randint(words, (batch, width), generator=generator)


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_are_those_of_the_distribution(chunk_size, temperature):
    logits, tokens = sample()
    expected = logits.clone().requires_grad_()
    distribution = Categorical(logits=expected / temperature)
    wanted, entropy = distribution.log_prob(tokens), distribution.entropy()
    weights = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (wanted * weights[0] + entropy * weights[1]).sum().backward()

    logits.requires_grad_()
    found, entropies = token_log_probabilities(
        logits, tokens, temperature=temperature, entropies=True, chunk_size=chunk_size
    )
    (found * weights[0] + entropies * weights[1]).sum().backward()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(entropies, entropy)
    torch.testing.assert_close(logits.grad, expected.grad)


def test_tokens_that_cannot_be_drawn_leave_entropy_and_gradient_finite():
    logits, tokens = sample()
    tokens = tokens.clamp(max=5)
    logits[..., 6] = -torch.inf
    logits.requires_grad_()
    found, entropies = token_log_probabilities(logits, tokens, entropies=True)
    torch.testing.assert_close(entropies, Categorical(logits=logits[..., :6]).entropy())
    (found.sum() + entropies.sum()).backward()
    assert bool(logits.grad.isfinite().all())


def test_half_precision_is_scored_in_single():
    logits, tokens = sample(dtype=torch.bfloat16)
    found, _ = token_log_probabilities(logits, tokens)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, token_log_probabilities(logits.float(), tokens)[0])


def test_chunks_keep_the_softmax_out_of_the_graph():
    """What is kept for the backward pass: without chunks as much as the logits again."""
    kept = {}
    for chunk_size in (None, 8):
        logits, tokens = sample(batch=4, width=32, words=64)
        logits.requires_grad_()
        seen: dict[int, int] = {}

        def pack(tensor, seen=seen):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            found, _ = token_log_probabilities(logits, tokens, entropies=True, chunk_size=chunk_size)
        seen.pop(logits.untyped_storage().data_ptr(), None)
        kept[chunk_size] = sum(seen.values())
        found.sum().backward()
    assert kept[8] < kept[None] / 10


def test_what_does_not_fit_is_refused():
    logits, tokens = sample()
    with pytest.raises(ArgumentError, match=r"tokens=\(3, 4\)"):
        token_log_probabilities(logits, tokens[:, :4])
    with pytest.raises(ArgumentError, match="temperature=0"):
        token_log_probabilities(logits, tokens, temperature=0)
    with pytest.raises(ArgumentError, match="chunk_size=0"):
        token_log_probabilities(logits, tokens, chunk_size=0)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_means_are_over_the_length_whatever_stands_after_it(lengths):
    values = torch.randn(len(lengths), 6, dtype=torch.float64)
    counts = torch.tensor(lengths)
    wanted = [float(row[:length].mean()) if length else 0.0 for row, length in zip(values, lengths, strict=True)]
    values[~length_mask(counts, 6)] = torch.nan
    assert mean_log_probabilities(values, counts).tolist() == pytest.approx(wanted)
    assert length_mask(counts).shape == (len(lengths), max(lengths))
