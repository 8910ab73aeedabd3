"""What the conformance kit is told of GRPO, and the tiny language model it is tried on. Imported by checks alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import thunderstone_grpo as family
from thunderstone.testing import Subject
from thunderstone.testing.zoo import Case

VOCABULARY, END, WIDTH, POSITIONS = 13, 1, 16, 32


class Prompts(Dataset[dict[str, Any]]):
    """Ids of equal length, each the same whenever it is read, and a column beside them."""

    def __init__(self, count: int = 14, length: int = 3, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(2, VOCABULARY, (count, length), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.ids[index], "wanted": int(self.ids[index][0])}


class CausalLM(LightningModule):
    """Attention with positions, dropout, and a training_step of its own that GRPO takes the place of.

    Args:
        dropout: Of the attention's output.
        lr: Of SGD with momentum.
    """

    def __init__(self, dropout: float = 0.0, lr: float = 0.1) -> None:
        super().__init__()
        self.lr = lr
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        width = input_ids.shape[1]
        if position_ids is None:
            position_ids = torch.arange(width, device=input_ids.device).expand_as(input_ids)
        states = self.embedding(input_ids) + self.positions(position_ids)
        scores = self.query(states) @ self.key(states).transpose(1, 2) / WIDTH**0.5
        hidden = torch.ones(width, width, device=scores.device).triu(1).bool()
        scores = scores.masked_fill(hidden, -torch.inf)
        if attention_mask is not None:
            seen = attention_mask.bool().unsqueeze(1) | torch.eye(width, device=scores.device).bool()
            scores = scores.masked_fill(~seen, -torch.inf)
        logits: Tensor = self.head(torch.tanh(states + self.dropout(scores.softmax(dim=-1) @ self.value(states))))
        return logits

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        ids = batch["input_ids"]
        return nn.functional.cross_entropy(self(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Evaluated(CausalLM):
    """Validates, tests and predicts."""

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits: Tensor = self(batch["input_ids"])
        return logits


def evens(prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """The share of a completion's tokens that are even; nobody is right or wrong all the time."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def prompts_loader(count: int = 14, batch_size: int = 2, length: int = 3, shuffle: bool = False) -> DataLoader[Any]:
    return DataLoader(Prompts(count, length), batch_size=batch_size, shuffle=shuffle)


def validation_loader() -> DataLoader[Any]:
    return DataLoader(Prompts(4, seed=5), batch_size=2)


_PARTS = "a rollout of one minibatch cannot be part of an accumulated update, which is refused"
_NOT_CALLED = "GRPO owns the objective: the module's training_step is not called, "

# By name, as the command line would give the reward.
SMALL: dict[str, Any] = {
    "reward": "thunderstone_grpo.conformance:evens",
    "group_size": 4,
    "max_new_tokens": 4,
    "stop_tokens": [END],
}

GRPO = Subject(
    "grpo",
    partial(family.GRPO, **SMALL),
    neutral=partial(family.GRPO, **SMALL, enabled=False),
    # A zoo's modules classify; GRPO asks for one that writes.
    cases=[Case("causal", Evaluated, prompts_loader, validation_loader)],
    plain_first_step=False,
    expected_failures={
        "counts_logs_once": _NOT_CALLED + "so what it logs is not logged",
        "clean_after_exception": _NOT_CALLED + "so an exception in it never happens",
        "clean_after_keyboard_interrupt": _NOT_CALLED + "so Ctrl-C in it never happens",
        "resumes_mid_accumulation": _PARTS,
        "resumes_under_ddp": _PARTS,
    },
)
