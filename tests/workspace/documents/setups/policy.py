"""A small language model and prompts with answers, for GRPO: `Net`, `module`, `loader`."""

from __future__ import annotations

import language_model
from torch.utils.data import DataLoader

FILES = {
    "rewards.py": "def reward(prompts, completions, **columns):\n"
    '    return [float(c.strip() == a) for c, a in zip(completions, columns["answer"])]\n'
}


class Net(language_model.Net):
    def train_dataloader(self) -> DataLoader:
        return loader

    val_dataloader = None


loader = DataLoader(language_model.questions, batch_size=2)
module = model = Net()
