from __future__ import annotations

import pytest
import torch
from torch import nn

VOCABULARY = 41


class OnlyIds(nn.Module):
    """A causal model of one's own: learned positions, a mean over the past, dropout, and no mask to hide padding."""

    def __init__(self, positions=64):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, 16), nn.Embedding(positions, 16)
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(16, VOCABULARY)
        self.shapes = []

    def forward(self, ids):
        self.shapes.append(tuple(ids.shape))
        length = ids.shape[1]
        hidden = self.tokens(ids) + self.places(torch.arange(length, device=ids.device))
        past = hidden.cumsum(dim=1) / torch.arange(1, length + 1, device=ids.device).unsqueeze(1)
        return self.head(self.dropout(torch.tanh(hidden + past)) * 4)


class Fixed(nn.Module):
    """The same logits whatever the text."""

    def __init__(self, logits):
        super().__init__()
        self.register_buffer("logits", torch.as_tensor(logits))

    def forward(self, ids):
        return self.logits.expand(*ids.shape, -1)


def gpt2(positions=64, **settings):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    # A wide initialisation: logits far apart, so that rounding decides nothing.
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=positions,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=2,
        **settings,
    )
    return GPT2LMHeadModel(config)


def llama(positions=64):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=positions,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(params=[gpt2, llama], ids=["gpt2", "llama"])
def hugging_face_model(request):
    return request.param()


@pytest.fixture
def only_ids():
    torch.manual_seed(3)
    return OnlyIds()


@pytest.fixture
def make_gpt2():
    return gpt2


@pytest.fixture
def make_fixed():
    return Fixed


@pytest.fixture
def prompts():
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in (3, 7, 1, 7, 4)]
