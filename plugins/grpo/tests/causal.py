"""More tiny language models as users write them, rewards that some completions get, and a quiet way to train."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from thunderstone_grpo.conformance import END as END
from thunderstone_grpo.conformance import VOCABULARY, WIDTH, CausalLM, prompts_loader
from thunderstone_grpo.conformance import Prompts as Prompts
from thunderstone_grpo.conformance import evens as evens


class IdsOnly(LightningModule):
    """A recurrent model whose forward takes ids alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.recurrent = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(ids))[0])

    def training_step(self, batch: Any) -> Tensor:
        raise AssertionError("GRPO owns the objective")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def contains_wanted(completion_ids: list[list[int]], wanted: list[int], **_: Any) -> list[float]:
    """1 where the column's token is in the completion."""
    return [float(token in ids) for ids, token in zip(completion_ids, wanted, strict=True)]


def few_prompts_loader() -> DataLoader[Any]:
    return prompts_loader(4, shuffle=True)


def trainer(*callbacks: Callback, **settings: Any) -> Trainer:
    arguments: dict[str, Any] = {"max_epochs": 1, "logger": False, "enable_checkpointing": False} | settings
    return Trainer(
        accelerator="cpu",
        devices=arguments.pop("devices", 1),
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


def fit(*callbacks: Callback, module: Any = None, loader: Any = None, seed: int = 0, **settings: Any) -> Any:
    """Train a module (a CausalLM made under the seed) and return it."""
    torch.manual_seed(seed)
    module = CausalLM() if module is None else module
    checkpoint = settings.pop("ckpt_path", None)
    trainer(*callbacks, **settings).fit(module, prompts_loader() if loader is None else loader, ckpt_path=checkpoint)
    return module
