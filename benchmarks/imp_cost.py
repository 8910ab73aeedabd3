"""What IMP costs beyond the trainings it asks for: R rounds beside R + 1 plain fits of the same length.

    python benchmarks/imp_cost.py                 a residual network, three rounds
    python benchmarks/imp_cost.py --write         and put the table into RESULTS.md

Both sides are whole calls of `fit`, with everything that setting up a fit takes: IMP's has pruning, rewinding and the
enforcement of masks in it, and the plain fits set up their strategies and loaders as often as there are rounds. What
else the machine does only ever makes a step longer, so of the steps the time is taken that a tenth of them stay below,
as often as there are steps; all that lies outside of steps counts as it was.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from side_by_side import Line, arguments, interleaved, median, paired, report, verdict, with_interval
from training_runs import Classifier, Clock, images, residual_network, train

from thunderstone_pruning import IMP

ROUNDS, STEPS, BATCH = 3, 16, 64
LIMIT = 1.02


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


def fits(loader: Any, iterated: bool) -> tuple[float, float]:
    """Wall-clock and processor seconds of one fit with IMP, or of as many plain ones as it has rounds."""
    clock = Clock()
    total = np.zeros(2)
    for _ in range(1 if iterated else ROUNDS + 1):
        torch.manual_seed(0)
        module = Classifier(residual_network(width=32, blocks=3), adamw)
        methods = [IMP(rounds=ROUNDS, tickets=None)] if iterated else []
        began = np.array([time.perf_counter(), time.process_time()])
        train(module, loader, [clock, *methods])
        total += np.array([time.perf_counter(), time.process_time()]) - began
    steps = np.array([clock.wall, clock.processor])
    assert steps.shape[1] == (ROUNDS + 1) * STEPS
    wall, processor = total - steps.sum(1) + steps.shape[1] * np.quantile(steps, 0.1, axis=1)
    return float(wall), float(processor)


def main() -> None:
    options = arguments(__doc__, rounds=9)
    torch.set_num_threads(1)
    loader = images(STEPS * BATCH, batch_size=BATCH)
    plain, iterated = f"{ROUNDS + 1} plain fits", f"IMP, {ROUNDS} rounds"
    used: dict[str, list[float]] = {plain: [], iterated: []}

    def measure(name: str) -> float:
        wall, processor = fits(loader, name == iterated)
        used[name].append(processor)
        return wall

    wall = interleaved({plain: lambda: measure(plain), iterated: lambda: measure(iterated)}, options.rounds)
    processor = {name: values[1:] for name, values in used.items()}  # without the round that does not count
    ratio = paired(processor[iterated], processor[plain])
    compared = (with_interval(ratio), with_interval(paired(wall[iterated], wall[plain])), verdict(ratio, LIMIT))
    report(
        "IMP beside plain fits",
        ("Training", "Processor time", "Ratio", "Ratio, wall-clock time", "Limit"),
        [
            Line(plain, (median(processor[plain], ".2f", "s"), "", "", "")),
            Line(iterated, (median(processor[iterated], ".2f", "s"), *compared)),
        ],
        f"A residual network of 57 thousand weights, AdamW, {STEPS} updates a fit on batches of {BATCH} images of "
        f"16 × 16 pixels, one thread; whole calls of `fit`, of all steps the time that a tenth of them stay below; "
        f"{options.rounds} interleaved rounds, medians and 95% bootstrap intervals of paired ratios.",
        options.write,
    )


if __name__ == "__main__":
    main()
