"""Dropout is found wherever layers keep its probability, and nothing else is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from thunderstone_hyperfitting.dropout import without_dropout


class DropPath(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = 0.2


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Dropout(0.1), nn.Dropout1d(0.1), nn.Dropout2d(0.1), nn.Dropout3d(0.1), nn.AlphaDropout(0.1),
                nn.FeatureAlphaDropout(0.1), nn.Dropout(1), nn.Dropout(0.0), DropPath(),
                nn.LSTM(3, 3, num_layers=2, dropout=0.1), nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1),
            ]
        )  # fmt: skip
        self.attention_dropout = 0.1
        self.attn_pdrop = 0.1
        self.layerdrop = 0.1
        self.drop_path_rate = 0.1
        self.p = 0.5
        self.dropout_schedule = "linear"
        self.use_dropout = True
        self.max_dropout_layers = 3
        self.momentum = 0.1


def test_every_probability_is_found_and_put_back() -> None:
    module = Everything()
    before = {(path, key): value for path, child in module.named_modules() for key, value in vars(child).items()}
    names, put_back = without_dropout(module)
    assert set(names) == {
        *(f"layers.{number}.p" for number in (0, 1, 2, 3, 4, 5, 6, 8)), "layers.9.dropout",
        *(f"layers.10.{name}" for name in ("self_attn.dropout", "dropout.p", "dropout1.p", "dropout2.p")),
        "attention_dropout", "attn_pdrop", "layerdrop", "drop_path_rate",
    }  # fmt: skip
    assert module.attention_dropout == module.layers[9].dropout == module.layers[0].p == 0.0
    assert (module.p, module.use_dropout, module.momentum, module.max_dropout_layers) == (0.5, True, 0.1, 3)
    put_back()
    after = {(path, key): value for path, child in module.named_modules() for key, value in vars(child).items()}
    assert all(after[key] is value for key, value in before.items())


@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
def test_hugging_face_models_draw_nothing_in_training_mode(kind: str) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, T5Config, T5EncoderModel

    torch.manual_seed(0)
    if kind == "gpt2":
        model: nn.Module = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2))
    elif kind == "llama":
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=11, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
                attention_dropout=0.2,
            )
        )  # fmt: skip
    else:
        model = T5EncoderModel(T5Config(vocab_size=11, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2))
    ids = torch.randint(0, 11, (2, 6))

    def output() -> Tensor:
        found: Tensor = model(ids)[0]
        return found.detach()

    model.train()
    assert not torch.equal(output(), output())
    _, put_back = without_dropout(model)
    state = torch.get_rng_state()
    first = output()
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()
    torch.testing.assert_close(first, output())
    put_back()
    model.train()
    assert not torch.equal(output(), output())
