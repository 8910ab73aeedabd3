"""What Hyperfit costs a training step.

A causal transformer is trained on batches as large as the paper's, 8 texts of 256 tokens: plainly, on exactly the
samples and with exactly the settings that Hyperfit would leave it with (no dropout, no weight decay, a constant
learning rate), and by Hyperfit. So both do the same arithmetic, and what differs is the callback. The time of a step is
from the beginning of one batch to that of the next, with everything in between.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from side_by_side import Line, arguments, interleaved, median, paired, report, verdict, with_interval
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset
from training_runs import Clock  # also silences Lightning
from training_runs import train as run

from thunderstone_hyperfitting import Hyperfit

STEPS, BATCH, LENGTH, WIDTH, VOCABULARY = 24, 8, 256, 64, 256
TINY_STEPS = 400
LIMIT = 1.01
QUANTILE = 0.1
PLAIN = "plain Lightning"
warnings.filterwarnings("ignore", message="Hyperfit: the mean training loss")


class LanguageModel(pl.LightningModule):
    """Predicts the next token; logs its loss as users' modules do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        layer = nn.TransformerEncoderLayer(width, 2, 4 * width, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, VOCABULARY)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        past, future = batch[0][:, :-1], batch[0][:, 1:]
        mask = nn.Transformer.generate_square_subsequent_mask(past.shape[1])
        logits = self.head(self.blocks(self.embedding(past), mask=mask, is_causal=True))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), future.flatten())
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-4, weight_decay=0.0)


class WholeSteps(Clock):
    """Time from the start of one batch to the start of the next."""

    def on_train_batch_start(self, *_: Any) -> None:
        now = (time.perf_counter(), time.process_time())
        if self._began != (0.0, 0.0):
            self.wall.append(now[0] - self._began[0])
            self.processor.append(now[1] - self._began[1])
        self._began = now

    def on_train_batch_end(self, *_: Any) -> None:
        """The step is not over before the next begins."""


def train(hyperfit: bool, tiny: bool) -> tuple[float, float]:
    """Wall-clock and processor seconds of a step, the first two left out."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    steps, batch, length = (TINY_STEPS, 2, 4) if tiny else (STEPS, BATCH, LENGTH)
    count = (steps + 3) * batch
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randint(VOCABULARY, (2 * count, length), generator=generator))
    kept = data if hyperfit else Subset(data, range(count))
    clock = WholeSteps()
    callbacks = [clock, Hyperfit(samples=count, max_epochs=1)] if hyperfit else [clock]
    run(LanguageModel(8 if tiny else WIDTH), DataLoader(kept, batch_size=batch, shuffle=True), callbacks)
    return float(np.quantile(clock.wall[2:], QUANTILE)), float(np.quantile(clock.processor[2:], QUANTILE))


def measured(rounds: int, tiny: bool) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall-clock and processor seconds in each round, of both."""
    processor: dict[str, list[float]] = {}

    def once(name: str) -> float:
        wall, used = train(name != PLAIN, tiny)
        processor.setdefault(name, []).append(used)
        return wall

    variants: dict[str, Callable[[], float]] = {name: (lambda n=name: once(n)) for name in (PLAIN, "Hyperfit")}
    wall = interleaved(variants, rounds)
    return wall, {name: values[1:] for name, values in processor.items()}  # without the round that does not count


def main() -> None:
    options = arguments(__doc__, rounds=25)
    wall, used = measured(options.rounds, tiny=False)
    _, tiny = measured(options.rounds, tiny=True)
    ratio = paired(used["Hyperfit"], used[PLAIN])
    beyond = paired(tiny["Hyperfit"], tiny[PLAIN], lambda value, base: 1e6 * (value - base))
    report(
        "Hyperfit's step",
        ("Training", "Processor time", "Ratio", "Ratio, wall-clock time", "Limit", "Beyond plain, in a tiny step"),
        [
            Line(PLAIN, (median(used[PLAIN], ".2f", "ms", 1e3), "", "", "", "")),
            Line(
                "Hyperfit",
                (
                    median(used["Hyperfit"], ".2f", "ms", 1e3),
                    with_interval(ratio, ".4f"),
                    with_interval(paired(wall["Hyperfit"], wall[PLAIN]), ".4f"),
                    verdict(ratio, LIMIT),
                    with_interval(beyond, ".0f", " µs"),
                ),
            ),
        ],
        f"A causal transformer of two layers of width {WIDTH} on {BATCH} texts of {LENGTH} tokens, one thread, against "
        f"plain training on the same number of samples without dropout and weight decay. Of every {STEPS} steps the "
        f"time that a tenth of them stays below; medians over {options.rounds} interleaved rounds and 95% bootstrap "
        f"intervals of paired ratios. The last column is of {TINY_STEPS} steps on two texts of four tokens, where what "
        "is added can be seen.",
        options.write,
    )


if __name__ == "__main__":
    main()
