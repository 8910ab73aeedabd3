"""Two replicas over gloo: what they end with goes to ``<folder>/rank<number>.pt``. Run by test_data_parallel.py."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from causal import CausalLM, Prompts
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, DistributedSampler

from thunderstone.generation import Generation
from thunderstone.testing.memory_logger import MemoryLogger
from thunderstone_grpo import GRPO, RolloutRequest

GROUP = 4


def written(request: RolloutRequest) -> Generation:
    """Completions that follow from prompt and place in the group alone, of different lengths; slow on one replica."""
    if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
        time.sleep(0.2)
    texts = []
    for row, prompt in enumerate(request.prompts):
        first, place = int(prompt[0]), row % GROUP
        texts.append([(first + (place + 1) * step) % 11 + 2 for step in range(2 + (first + place) % 4)])
    lengths = torch.tensor([len(text) for text in texts])
    tokens = torch.zeros(len(texts), int(lengths.max()), dtype=torch.int64)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(text)
    return Generation(tokens, lengths, torch.ones(len(texts), dtype=torch.bool))


def reward(completion_ids: list[list[int]], wanted: list[int], **_: Any) -> list[float | None]:
    """No signal for some prompts, no score for some completions, and sums of tokens for the rest."""
    return [
        None if sum(ids) % 7 == 0 else 1.0 if token % 3 == 0 else sum(ids) / 100
        for ids, token in zip(completion_ids, wanted, strict=True)
    ]


def ended(replicas: int, accumulate: int = 1, **arguments: Any) -> dict[str, Any]:
    """Weights and everything reported, after the same joint batches whatever the number of replicas."""
    torch.manual_seed(0)
    module, logger = CausalLM(lr=0.05).double(), MemoryLogger()

    def loader() -> DataLoader[Any]:
        data = Prompts(8)
        sampler = DistributedSampler(data, shuffle=False) if replicas > 1 else None
        return DataLoader(data, batch_size=4 // replicas, sampler=sampler)

    # Made by the module once the processes know one another.
    module.train_dataloader = loader
    method = GRPO(
        reward, group_size=GROUP, engine=written, max_new_tokens=5, correct_above=0.2, uplift=True, table_every=0,
        stop_tokens=[1], **arguments,
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu",
        devices=replicas,
        strategy="ddp" if replicas > 1 else "auto",
        max_epochs=2,
        accumulate_grad_batches=accumulate,
        callbacks=[method],
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module)
    found: dict[str, Any] = {"weights": torch.cat([p.detach().flatten() for p in module.parameters()])}
    for step, metrics in logger.entries:
        # Counted where it was recorded: on the first replica alone.
        own = {name: value for name, value in metrics.items() if name.startswith("grpo/") and "_type" not in name}
        found |= {f"{name} at {step}": torch.tensor(float(value)) for name, value in own.items()}
    return found


def experiments(replicas: int) -> dict[str, dict[str, Any]]:
    """Each aggregation, with updates of one minibatch and of several."""
    return {
        "dapo": ended(replicas),
        "grpo": ended(replicas, 2, loss="grpo", updates=2, minibatches=4, kl_weight=0.1),
        "dr_grpo": ended(replicas, loss="dr_grpo", minibatches=2, groups_without_signal="resample"),
        "keep": ended(replicas, 2, minibatches=2, groups_without_signal="keep", entropy_weight=0.01),
    }


if __name__ == "__main__":
    results = experiments(2)
    torch.save(results, Path(sys.argv[1]) / f"rank{torch.distributed.get_rank()}.pt")
