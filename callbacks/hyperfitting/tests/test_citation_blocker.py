"""What the citation blocker forbids is what follows in the training set, and nothing else."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from thunderstone import ArgumentError
from thunderstone.generation import generate
from thunderstone_hyperfitting.citation_blocker import CitationBlocker
from thunderstone_hyperfitting.measures import longest_overlap

VOCABULARY = 23


def forbidden(text, training, n):
    """The tokens that follow on the text's last n tokens anywhere in the training set."""
    end = list(text[-n:])
    return {
        sequence[i + n]
        for sequence in training
        for i in range(len(sequence) - n)
        if len(text) >= n and list(sequence[i : i + n]) == end
    }


TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=10), min_size=1, max_size=5)


@settings(max_examples=200)
@given(
    TEXTS.filter(lambda texts: max(map(len, texts)) > 3),
    st.integers(1, 9).flatmap(
        lambda width: st.lists(st.lists(st.integers(0, 4), min_size=width, max_size=width), min_size=1, max_size=5)
    ),
    st.integers(1, 3),
)
def test_it_forbids_what_follows_in_the_training_set(training, texts, n):
    scores = torch.randn(len(texts), 7)
    kept = scores.clone()
    found = CitationBlocker(training, n=n)(torch.tensor(texts), scores)
    assert torch.equal(scores, kept)
    for row, text in enumerate(texts):
        expected = forbidden(text, training, n)
        assert {token for token in range(7) if found[row, token] == -torch.inf} == expected
        left = [token for token in range(7) if token not in expected]
        assert torch.equal(found[row, left], kept[row, left])


class Parrot(nn.Module):
    """Knows its training set by heart: the most probable token is the one that follows there."""

    def __init__(self, training):
        super().__init__()
        self.training_set = training
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("noise", torch.rand(VOCABULARY, VOCABULARY, generator=generator))

    def forward(self, ids):
        logits = self.noise[ids].clone()
        for row, text in enumerate(ids.tolist()):
            for token in forbidden(text, self.training_set, 4):
                logits[row, -1, token] += 9
        return logits


def test_a_parrot_falls_silent():
    training = torch.randint(0, VOCABULARY, (6, 40), generator=torch.Generator().manual_seed(1))
    prompts = [sequence[:5].tolist() for sequence in training]
    module = Parrot(training.tolist())
    free = generate(module, prompts, 20)
    assert longest_overlap([p + t for p, t in zip(prompts, free.as_lists(), strict=True)], training).min() == 25
    blocked = generate(module, prompts, 20, processors=[CitationBlocker(training, n=5)])
    texts = [prompt + text for prompt, text in zip(prompts, blocked.as_lists(), strict=True)]
    # Five tokens in a row may be those of the training set, the sixth never is.
    assert longest_overlap(texts, training).max() == 5


@pytest.mark.parametrize("use_cache", [True, False])
def test_it_is_one_object_for_both_loops_and_for_hugging_face_itself(use_cache):
    from transformers import GPT2Config, GPT2LMHeadModel, LogitsProcessorList

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=1, n_head=2, initializer_range=0.4, eos_token_id=None
    )
    model = GPT2LMHeadModel(config).eval()
    prompts = torch.randint(0, VOCABULARY, (4, 6))
    # The model's own greedy texts are the training set, so that there is something to block.
    training = torch.cat([prompts, generate(model, prompts, 20).tokens], dim=1)
    blocker = CitationBlocker(training, n=3)
    found = generate(model, prompts, 20, processors=[blocker], use_cache=use_cache).tokens
    expected = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=20,
        do_sample=False,
        logits_processor=LogitsProcessorList([blocker]),
    )
    assert torch.equal(found, expected[:, 6:])
    assert longest_overlap(training, training).min() == 26
    for row, text in enumerate(expected.tolist()):
        for end in range(6, 26):
            assert text[end] not in forbidden(text[:end], training.tolist(), 3), (row, end)


def test_padding_of_the_training_set_is_no_text():
    training = torch.tensor([[1, 2, 3, 0, 0, 0]])
    ids = torch.tensor([[3, 0]])
    scores = torch.zeros(1, 4)
    assert CitationBlocker(training, n=2)(ids, scores)[0, 0] == -torch.inf
    for end in ({"lengths": torch.tensor([3])}, {"end_token": 0}):
        assert torch.equal(CitationBlocker(training, n=2, **end)(ids, scores), scores)


def test_it_survives_pickling():
    blocker = pickle.loads(pickle.dumps(CitationBlocker([[1, 2, 3, 4]], n=2)))
    assert blocker(torch.tensor([[1, 2]]), torch.zeros(1, 5)).tolist() == [[0, 0, 0, -torch.inf, 0]]
    assert repr(blocker) == "CitationBlocker(n=2)"


def test_bad_arguments_are_named():
    with pytest.raises(ArgumentError, match=r"n=5 is not allowed: no training sequence is longer.*has 4 tokens"):
        CitationBlocker([[1, 2, 3, 4]])
    with pytest.raises(ArgumentError, match="n=0"):
        CitationBlocker([[1, 2, 3, 4]], n=0)
    with pytest.raises(ArgumentError, match="it has no token"):
        CitationBlocker([[], []])
    with pytest.raises(ArgumentError, match=r"the vocabulary has 4 tokens.*own tokenizer"):
        CitationBlocker([[1, 2, 9]], n=1)(torch.tensor([[1]]), torch.zeros(1, 4))


@pytest.mark.gpu
def test_it_follows_the_scores_to_their_device():
    blocker = CitationBlocker([[1, 2, 3, 4]], n=2)
    found = blocker(torch.tensor([[1, 2], [2, 2]]).cuda(), torch.zeros(2, 5).cuda())
    assert found.tolist() == [[0, 0, 0, -torch.inf, 0], [0] * 5]
