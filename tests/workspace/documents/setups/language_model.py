"""A small language model of characters: `Net`, `module`, its `model` and `tokenizer`, `loader`, `training`, `prompts`.

With GRPO the same module is a policy: `questions` yields prompts that are texts, with their answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

_TEXT = "the pass statement is a null operation; when it is executed, nothing happens. once upon a time it was not. "


class _Characters:
    """As much of a Hugging Face tokenizer as pages use."""

    eos_token_id = 0
    letters = "\n .,;0123456789+=?abcdefghijklmnopqrstuvwxyz"

    def encode(self, text: str) -> list[int]:
        return [max(self.letters.find(letter), 1) for letter in text.lower()]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.letters[int(token)] for token in ids)

    def batch_decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [self.decode(row) for row in rows]

    def __call__(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [self.encode(text) for text in texts]}


class _Recurrent(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, 16)
        self.recurrent = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.recurrent(self.embedding(ids))[0])


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = _Characters()
        self.model = _Recurrent(len(_Characters.letters))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(ids)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        (ids,) = batch
        return nn.functional.cross_entropy(self.model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def train_dataloader(self) -> DataLoader:
        return loader

    def val_dataloader(self) -> DataLoader:
        return loader

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


torch.manual_seed(0)
_ids = torch.tensor(_Characters().encode(_TEXT * 4)).unfold(0, 48, 12)
loader = DataLoader(TensorDataset(_ids), batch_size=8, shuffle=True)
module = Net()
model, tokenizer = module.model, module.tokenizer
training, prompts = _ids, [_ids[0, :8].tolist(), _ids[1, :8].tolist()]
questions = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(3) for b in range(4)]
