"""What GRPO refuses, and what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from causal import END, VOCABULARY, CausalLM, Prompts, evens, fit
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from thunderstone import (
    StepError,
    ThunderstoneError,
    UnsupportedSettingError,
)
from thunderstone_grpo import GRPO


def method(**arguments: Any) -> GRPO:
    return GRPO(**{"reward": evens, "group_size": 4, "max_new_tokens": 5, "stop_tokens": [END], **arguments})


class NoLogits(CausalLM):
    def forward(self, input_ids: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(input_ids)[:, -1]


class NoForward(CausalLM):
    forward = nn.Module.forward  # type: ignore[assignment]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(Prompts(4))


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ({}, {"module": NoLogits}, ThunderstoneError, "GRPO.*NoLogits returned a tensor"),
        ({"model": "head.nothing"}, {}, ThunderstoneError, "GRPO: model='head.nothing'.*no such submodule"),
        ({}, {"accumulate_grad_batches": 2}, UnsupportedSettingError, "accumulate_grad_batches=2 and minibatches=1"),
        (
            {"updates": 2},
            {"loader": lambda: DataLoader(Stream(), batch_size=2)},
            UnsupportedSettingError,
            "GRPO cannot run with an IterableDataset",
        ),
        ({}, {"loader": lambda: DataLoader(["text"] * 4)}, UnsupportedSettingError, "no tokenizer that makes ids"),
        (
            {},
            {"loader": lambda: DataLoader(TensorDataset(torch.rand(4, 3)), batch_size=2)},
            UnsupportedSettingError,
            "GRPO cannot run with a batch that is a tensor of shape .* and dtype torch.float32",
        ),
        (
            {"prompt_column": "question"},
            {"loader": lambda: DataLoader([{"prompt": "ab"}] * 4)},
            UnsupportedSettingError,
            "columns 'prompt'.*neither 'question' nor 'input_ids'",
        ),
        ({"reference": "adapter", "kl_weight": 0.1}, {}, UnsupportedSettingError, "no layers with peft adapters"),
        ({"tokenizer": "no/such tokenizer"}, {}, ThunderstoneError, "GRPO: tokenizer='no/such tokenizer'"),
    ],
)
def test_refusals(arguments: dict[str, Any], settings: dict[str, Any], error: Any, message: str) -> None:
    made = {name: value() if name in ("module", "loader") else value for name, value in settings.items()}
    with pytest.raises(error, match=rf"(?s){message}.*HINT"):
        fit(method(**arguments), **made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward": []}, "reward=\\[\\].*there is no reward function"),
        ({"reward": "no.such.module:reward"}, "reward='no.such.module:reward'.*cannot be imported"),
        ({"reward": 3}, "reward=3.*of type int"),
        ({"reward_weights": [1.0, 2.0]}, "reward_weights=.*there are 1 reward functions"),
        ({"reward": "reward"}, "reward='reward'.*'package.module:function'"),
        ({"group_size": 1}, "group_size=1.*fixed_scale.*'keep'"),
        ({"group_size": 1, "advantage": "fixed_scale"}, "groups_without_signal='drop'.*group_size=1"),
        ({"entropy_weight": -0.1}, "GRPO: entropy_weight=-0.1"),
        ({"shapers": "unlikeliness"}, "shapers='unlikeliness'.*no list"),
        ({"shapers": ["unlikeliness(beta=1.5)"]}, "beta=1.5"),
        ({"advantage": "z"}, "named 'z'"),
        ({"loss": "ppo"}, "loss='ppo'"),
        ({"clip_dual": 1.1}, "clip_dual=1.1"),
        ({"stop_tokens": 3}, "stop_tokens=3"),
        ({"kl": "k4"}, "kl='k4'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ThunderstoneError, match=message):
        method(**arguments)


def test_nan_logits() -> None:
    module = CausalLM()
    nn.init.constant_(module.head.bias, torch.nan)
    with pytest.raises(StepError, match=r"GRPO: no completions could be drawn: .*the logits hold NaN"):
        fit(method(), module=module)


def test_prompts_that_leave_no_room() -> None:
    class Short(CausalLM):
        class config:  # as Hugging Face models declare it
            max_position_embeddings = 6
            vocab_size = VOCABULARY

    with pytest.raises(
        UnsupportedSettingError, match=r"a prompt of 3 tokens and max_new_tokens=5: Short has 6 posi.*than 2"
    ):
        fit(method(), module=Short())
    with pytest.raises(UnsupportedSettingError, match=r"HINT: use max_new_tokens=4 or less"):
        fit(method(max_new_tokens=20), module=Short())


class Bidirectional(CausalLM):
    """Every position sees all of the text."""

    def forward(self, input_ids: Tensor) -> Tensor:
        states = self.embedding(input_ids)
        return self.head(torch.tanh(states + states.mean(dim=1, keepdim=True)))


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    with pytest.raises(
        UnsupportedSettingError, match=r"GRPO cannot run with a Bidirectional whose logits depend on later tokens"
    ):
        fit(method(), module=Bidirectional())
