"""Whole updates against a loop written from the equations, one completion at a time, in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from causal import CausalLM, Prompts, fit
from torch import Tensor
from torch.utils.data import DataLoader

from thunderstone_grpo import GRPO

GROUP, NEW = 4, 5


class Ragged(Prompts):
    """Prompts of different lengths, padded on either side."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids, kept = self.ids[index], 2 + index % 3
        mask = torch.zeros(len(ids), dtype=torch.int64)
        mask[-kept:] = 1
        return {"input_ids": ids if index % 2 else ids.flip(0), "attention_mask": mask if index % 2 else mask.flip(0)}


class Watched:
    """Rewards, and what they were given for: a rollout of each batch."""

    def __init__(self) -> None:
        self.rollouts: list[list[tuple[list[int], list[int], float]]] = []

    def __call__(self, prompts: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        rewards = [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]
        self.rollouts.append(list(zip(prompts, completion_ids, rewards, strict=True)))
        return rewards


def scored(module: CausalLM, prompt: list[int], completion: list[int], temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of one completion's tokens, without any padding."""
    ids = torch.tensor([prompt + completion])
    log_p = (module(ids)[0, len(prompt) - 1 : -1] / temperature).log_softmax(-1)
    return log_p[torch.arange(len(completion)), torch.tensor(completion)], -(log_p.exp() * log_p).sum(-1)


def by_hand(
    module: CausalLM,
    rollouts: list[list[tuple[list[int], list[int], float]]],
    *,
    loss: str,
    kl: str,
    kl_weight: float,
    kl_correction: bool = False,
    entropy_weight: float,
    updates: int,
    minibatches: int,
    accumulate: int,
    temperature: float,
) -> CausalLM:
    reference = copy.deepcopy(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=module.lr, momentum=0.9)
    for rollout in rollouts:
        advantages, rows = [], []
        for start in range(0, len(rollout), GROUP):
            rewards = torch.tensor([reward for _, _, reward in rollout[start : start + GROUP]], dtype=torch.float64)
            if len(set(rewards.tolist())) > 1:
                rows += range(start, start + GROUP)
            advantages += ((rewards - rewards.mean()) / (rewards.std() + 1e-4)).tolist()
        with torch.no_grad():
            old = [scored(module, prompt, text, temperature)[0] for prompt, text, _ in rollout]
            ref = [scored(reference, prompt, text, temperature)[0] for prompt, text, _ in rollout]
        chunks = [rows[number::minibatches] for number in range(minibatches)]
        for _ in range(updates):
            for start in range(0, minibatches, accumulate):
                of_update = [row for chunk in chunks[start : start + accumulate] for row in chunk]
                total = torch.zeros((), dtype=torch.float64)
                tokens = sum(len(rollout[row][1]) for row in of_update)
                for row in of_update:
                    new, entropy = scored(module, *rollout[row][:2], temperature)
                    ratio = (new - old[row]).exp()
                    a = advantages[row]
                    clipped = ratio.clamp(0.8, 1.28)
                    of_token = -torch.stack([ratio * a, clipped * a]).amin(0)
                    d = new - ref[row]
                    estimate = {"k1": d, "k2": d**2 / 2, "k3": (-d).exp() - 1 + d}[kl]
                    estimate = estimate * ratio if kl_correction else estimate
                    of_token = of_token + kl_weight * estimate - entropy_weight * entropy
                    total = (
                        total
                        + {
                            "grpo": of_token.mean() / len(of_update),
                            "dapo": of_token.sum() / tokens,
                            "dr_grpo": of_token.sum() / (len(of_update) * NEW),
                        }[loss]
                    )
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
    return module


@pytest.mark.parametrize(
    ("loss", "kl", "settings"),
    [
        ("dapo", "k3", {"kl_weight": 0.0, "entropy_weight": 0.0, "updates": 1, "minibatches": 1, "accumulate": 1}),
        ("dapo", "k3", {"kl_weight": 0.3, "entropy_weight": 0.0, "updates": 3, "minibatches": 2, "accumulate": 2}),
        (
            "dapo",
            "k3",
            {
                "kl_weight": 0.3,
                "entropy_weight": 0.0,
                "updates": 2,
                "minibatches": 1,
                "accumulate": 1,
                "kl_correction": True,
            },
        ),
        ("grpo", "k2", {"kl_weight": 0.3, "entropy_weight": 0.1, "updates": 2, "minibatches": 4, "accumulate": 2}),
        ("dr_grpo", "k1", {"kl_weight": 0.1, "entropy_weight": 0.0, "updates": 2, "minibatches": 3, "accumulate": 1}),
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_updates_are_those_written_by_hand(loss: str, kl: str, settings: dict[str, Any], temperature: float) -> None:
    torch.manual_seed(3)
    module = CausalLM(dropout=0.5, lr=0.5).double()
    # Without dropout, as where completions are scored and updated.
    expected = copy.deepcopy(module).eval()
    watched = Watched()
    loader = DataLoader(Ragged(4, length=5), batch_size=2)
    chosen = dict(settings)
    accumulate = chosen.pop("accumulate")
    method = GRPO(
        reward=watched, group_size=GROUP, max_new_tokens=NEW, temperature=temperature, stop_tokens=[1], clip_high=0.28,
        loss=loss, kl=kl, softmax_positions=None if temperature == 1 else 3, **chosen,
    )  # fmt: skip
    before = copy.deepcopy(module.state_dict())
    fit(method, module=module, loader=loader, precision="64-true", accumulate_grad_batches=accumulate)
    assert len(watched.rollouts) == 2
    assert len({len(text) for rollout in watched.rollouts for _, text, _ in rollout}) > 1
    by_hand(expected, watched.rollouts, loss=loss, kl=kl, temperature=temperature, **settings)
    # The bias of keys shifts all scores of a query alike, and nothing depends on it.
    del before["key.bias"]
    for (name, found), wanted in zip(module.named_parameters(), expected.parameters(), strict=True):
        assert name not in before or float((wanted - before[name]).detach().abs().max()) > 1e-4
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11, msg=lambda text, n=name: f"{n}: {text}")
