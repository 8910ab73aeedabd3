"""The step of every method of the sharpness family against the plain step, on a network whose passes dominate.

SAF is timed in an epoch in which every sample has a past, MESA with its penalty on: what a step costs once they act.
A step reaches from the end of the one before to its own end, so that loading and what SAF adds to it are in it.

MESA's further pass allocates and frees every activation, and glibc's allocator as it is set up hands such memory back
to the system and asks for it again, zeroed, in the next layer. Plain training does so less, since it holds activations
until the backward pass. `--keep-memory` measures plain training, SAF and MESA once more with an allocator that keeps
what was freed, as allocators for GPUs do.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from side_by_side import Line, arguments, interleaved, median, paired, report, verdict, with_interval
from training_runs import Classifier, images, residual_network, train

from thunderstone import Method
from thunderstone_sharpness import ASAM, IGNITE, MESA, SAF, SAM, GradientNorm

KEEPING = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
"""Environment in which glibc's allocator keeps memory; it is read when a process starts."""

STEPS = 10
SKIPPED = 2
"""Steps at the beginning that do not count."""


@dataclass(frozen=True)
class Variant:
    """A way of training.

    Attributes:
        methods: Makes what is attached.
        limit: Of the ratio to the plain step, where there is one.
        epochs: How many are trained; the last one's steps count.
    """

    methods: Callable[[], list[Method]]
    limit: float | None = None
    epochs: int = 1


VARIANTS = {
    "plain": Variant(list),
    "SAM": Variant(lambda: [SAM()], 2.05),
    "ASAM": Variant(lambda: [ASAM()], 2.05),
    "GradientNorm": Variant(lambda: [GradientNorm()], 2.05),
    "SAF": Variant(lambda: [SAF(start_epoch=1, epochs_back=1, output="network")], 1.05, epochs=2),
    "MESA": Variant(lambda: [MESA(start_epoch=0, output="network")], 1.40),
    "IGNITE": Variant(lambda: [IGNITE(output="network")]),
}


class Laps(pl.Callback):
    """Wall-clock and processor time at the end of every batch of the latest epoch."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.times = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append((time.perf_counter(), time.process_time()))

    def seconds(self) -> tuple[float, float]:
        """Wall-clock and processor seconds that a tenth of the steps stay below."""
        laps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(self.times[SKIPPED:])]
        wall, processor = np.quantile(laps, 0.1, axis=0)
        return float(wall), float(processor)


def measured(rounds: int, variants: dict[str, Variant]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall-clock and processor seconds of a step, of each variant in each round."""
    loader = images((STEPS + SKIPPED + 1) * 64, batch_size=64)
    processor: dict[str, list[float]] = {}

    def measure(name: str, variant: Variant) -> float:
        torch.manual_seed(0)
        module = Classifier(
            residual_network(width=32, blocks=3),
            lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4),
        )
        laps = Laps()
        train(module, loader, [laps, *variant.methods()], variant.epochs)
        wall, used = laps.seconds()
        processor.setdefault(name, []).append(used)
        return wall

    wall = interleaved({name: (lambda n=name, v=v: measure(n, v)) for name, v in variants.items()}, rounds)
    return wall, {name: values[1:] for name, values in processor.items()}  # without the round that does not count


def lines(rounds: int, variants: dict[str, Variant]) -> list[Line]:
    """A line a method."""
    wall, processor = measured(rounds, variants)
    found = []
    for name, variant in variants.items():
        ratio = paired(processor[name], processor["plain"])
        plain = name == "plain"
        found.append(
            Line(
                name,
                (
                    median(processor[name], ".1f", "ms", 1e3),
                    "" if plain else with_interval(ratio),
                    "" if plain else with_interval(paired(wall[name], wall["plain"])),
                    verdict(ratio, variant.limit) if variant.limit is not None else "",
                ),
            )
        )
    return found


def main() -> None:
    options = arguments(__doc__, rounds=9, **{"keep-memory": "with an allocator that keeps freed memory"})
    if options.keep_memory and not KEEPING.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEPING})
    torch.set_num_threads(1)
    chosen = {name: VARIANTS[name] for name in ("plain", "SAF", "MESA")} if options.keep_memory else VARIANTS
    report(
        "The sharpness family's steps" + (", memory kept" if options.keep_memory else ""),
        ("Training", "Step, processor time", "Ratio to plain", "Ratio, wall-clock time", "Limit"),
        lines(options.rounds, chosen),
        "A residual network of 57 thousand weights, SGD with momentum, batches of 64 images of 16 × 16 pixels, one "
        "thread. SAF in an epoch in which every sample has a past, MESA with its penalty on; loading included. "
        f"{options.rounds} interleaved rounds of {STEPS} steps; of a round the time that a tenth of its steps stay "
        "below, which what else the machine does disturbs least; medians and 95% bootstrap intervals of paired ratios."
        + (f" All of them with {' '.join(f'{k}={v}' for k, v in KEEPING.items())}." if options.keep_memory else ""),
        options.write,
    )


if __name__ == "__main__":
    main()
