"""SVRG's step against the plain step, its snapshot, and the monitor of the gradient's variance at rest.

Trainings of one residual network, whose forward and backward passes dominate. A step is timed where the snapshot is not
taken (not in the first batch of an epoch); the snapshot itself is a pass over the training data, and is given as a
multiple of plain training on the same number of batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from side_by_side import Line, arguments, interleaved, median, paired, report, verdict, with_interval
from training_runs import Classifier, images, residual_network, step_time, train

from thunderstone import Method
from thunderstone_estimators import SVRG, GradientVariance

STEPS = 8
LIMIT = 2.15
NEVER = 10**9
REST_STEPS, REST_LIMIT = 40, 1.01
VARIANTS: dict[str, Callable[[], list[Method]]] = {
    "plain": list,
    "SVRG, fixed": lambda: [SVRG(1.0, "fixed")],
    "SVRG, linear": lambda: [SVRG(0.75, "linear")],
    "SVRG, optimal": lambda: [SVRG(1.0, "optimal")],
}


def network() -> Classifier:
    """The network, with the same weights every time."""
    torch.manual_seed(0)
    return Classifier(
        residual_network(width=32, blocks=3),
        lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4),
    )


def steps(rounds: int) -> list[Line]:
    """A line a variant: step time, and ratios to the plain step in processor and wall-clock time."""
    loader = images((STEPS + 2) * 64, batch_size=64)
    processor: dict[str, list[float]] = {}

    def measure(name: str) -> float:
        wall, used = step_time(network(), loader, STEPS, list(VARIANTS[name]()))
        processor.setdefault(name, []).append(used)
        return wall

    wall = interleaved({name: (lambda n=name: measure(n)) for name in VARIANTS}, rounds)
    counted = {name: values[1:] for name, values in processor.items()}  # without the round that does not count
    return [_line(name, counted, wall, LIMIT if "SVRG" in name else None) for name in VARIANTS]


def _line(name: str, processor: dict[str, list[float]], wall: dict[str, list[float]], limit: float | None) -> Line:
    ratio = paired(processor[name], processor["plain"])
    plain = name == "plain"
    return Line(
        name,
        (
            median(processor[name], ".1f", "ms", 1e3),
            "" if plain else with_interval(ratio),
            "" if plain else with_interval(paired(wall[name], wall["plain"])),
            "" if limit is None else verdict(ratio, limit),
        ),
    )


class FirstBatch(pl.Callback):
    """Time from the beginning of the epoch to the beginning of its first batch's step: where the snapshot is taken."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._began = time.process_time()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.seconds = time.process_time() - self._began


def snapshots(rounds: int) -> list[Line]:
    """What a snapshot takes, and what plain steps on the same batches do."""
    loader = images(STEPS * 64, batch_size=64)

    def snapshot() -> float:
        clock = FirstBatch()
        train(network(), loader, [SVRG(), clock])
        return clock.seconds

    def plain() -> float:
        return step_time(network(), images((STEPS + 2) * 64, batch_size=64), STEPS, [])[1] * STEPS

    values = interleaved({"plain steps": plain, "snapshot": snapshot}, rounds)
    ratio = paired(values["snapshot"], values["plain steps"])
    return [
        Line(f"{STEPS} plain steps", (median(values["plain steps"], ".0f", "ms", 1e3), "")),
        Line(f"a snapshot over {STEPS} batches", (median(values["snapshot"], ".0f", "ms", 1e3), with_interval(ratio))),
    ]


def at_rest(rounds: int) -> list[Line]:
    """A short step with and without the monitor attached; the time that a tenth of the steps stays below."""
    loader = images((REST_STEPS + 2) * 32, batch_size=32)
    variants: dict[str, Callable[[], list[Method]]] = {
        "plain": list,
        "GradientVariance at rest": lambda: [GradientVariance(every_n_steps=NEVER)],
    }
    processor: dict[str, list[float]] = {}

    def measure(name: str) -> float:
        torch.manual_seed(0)
        module = Classifier(residual_network(16, 3), lambda parameters: torch.optim.SGD(parameters, lr=0.01))
        wall, used = step_time(module, loader, REST_STEPS, list(variants[name]()), quantile=0.1)
        processor.setdefault(name, []).append(used)
        return wall

    wall = interleaved({name: (lambda n=name: measure(n)) for name in variants}, rounds)
    counted = {name: values[1:] for name, values in processor.items()}
    return [_line(name, counted, wall, None if name == "plain" else REST_LIMIT) for name in variants]


def main() -> None:
    options = arguments(__doc__, rounds=9)
    torch.set_num_threads(1)
    what = (
        "A residual network of 57 thousand weights, SGD with momentum, batches of 64 images of 16 × 16 pixels, one "
        "thread"
    )
    report(
        "SVRG's step",
        ("Training", "Step, processor time", "Ratio to plain", "Ratio, wall-clock time", "Limit"),
        steps(options.rounds),
        f"{what}; {options.rounds} interleaved rounds of {STEPS} steps in which no snapshot is taken, "
        "medians and 95% bootstrap intervals of paired ratios.",
        options.write,
    )
    report(
        "SVRG's snapshot",
        ("What", "Processor time", "Ratio"),
        snapshots(options.rounds),
        f"{what}: the pass over the training data before an epoch, and plain training on as many batches. "
        f"{options.rounds} interleaved rounds.",
        options.write,
    )
    report(
        "The gradient-variance monitor at rest",
        ("Training", "Step, processor time", "Ratio to plain", "Ratio, wall-clock time", "Limit"),
        at_rest(2 * options.rounds),
        "A smaller residual network on 32 images, SGD, one thread, on steps at which nothing is measured. Of every "
        f"{REST_STEPS} steps the time that a tenth of them stays below; medians over {2 * options.rounds} interleaved "
        "rounds and 95% bootstrap intervals of paired ratios.",
        options.write,
    )


if __name__ == "__main__":
    main()
