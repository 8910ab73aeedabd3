"""What Thunderstone costs a run that does not use it.

Three things are compared with plain Lightning, by the time of a training step: Thunderstone installed, so that
Lightning asks it for callbacks; a method attached that is switched off (SAM with rho=0, and with it exact resume); and
`thunderstone run SCRIPT` with nothing to attach, also by what it adds to the time of the whole process.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from processes import run, thunderstone_command
from side_by_side import Line, arguments, interleaved, median, paired, report, verdict, with_interval
from torch import nn
from training_runs import Classifier, images, residual_network, step_time

import thunderstone

STEPS = 40
TINY_STEPS = 400
LIMIT = 1.01
QUANTILE = 0.1
PLAIN = "plain Lightning"
FACTORIES = "lightning.pytorch.callbacks_factory"


@contextmanager
def not_installed() -> Iterator[None]:
    """Lightning finds no factory of callbacks, as in an environment without Thunderstone."""
    real = importlib.metadata.entry_points

    def without(**filters: Any) -> Any:
        found = real(**filters)
        if filters.get("group") != FACTORIES:
            return found
        return importlib.metadata.EntryPoints(point for point in found if point.name != "thunderstone")

    with patch("lightning.fabric.utilities.registry.entry_points", without):
        yield


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def train(callbacks: list[Any], tiny: bool = False) -> tuple[float, float]:
    """Wall-clock and processor seconds of a step; of a tiny one, or of one in which computation dominates."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if tiny:
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 10))
        loader = images((TINY_STEPS + 2) * 2, batch_size=2, size=4)
        return step_time(Classifier(network, sgd), loader, TINY_STEPS, callbacks, quantile=QUANTILE)
    loader = images((STEPS + 2) * 32, batch_size=32)
    return step_time(Classifier(residual_network(16, 3), sgd), loader, STEPS, callbacks, quantile=QUANTILE)


def in_this_process(rounds: int, tiny: bool) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall-clock and processor seconds in each round: plain, installed, and attached but switched off."""
    processor: dict[str, list[float]] = {}

    def measure(name: str, callbacks: Callable[[], list[Any]], hidden: bool) -> float:
        with not_installed() if hidden else nullcontext():
            wall, used = train(callbacks(), tiny)
        processor.setdefault(name, []).append(used)
        return wall

    variants: dict[str, tuple[Callable[[], list[Any]], bool]] = {
        PLAIN: (list, True),
        "Thunderstone installed": (list, False),
        "SAM attached, rho=0": (lambda: [thunderstone.create("sam", rho=0.0)], False),
    }
    wall = interleaved({name: (lambda n=name, v=value: measure(n, *v)) for name, value in variants.items()}, rounds)
    return wall, {name: values[1:] for name, values in processor.items()}  # without the round that does not count


def of_a_long_step(rounds: int) -> list[Line]:
    """The ratio to plain where computation dominates."""
    wall, processor = in_this_process(rounds, tiny=False)
    return [
        _line(name, wall[name], wall[PLAIN], used, processor[PLAIN], name == PLAIN) for name, used in processor.items()
    ]


def of_a_tiny_step(rounds: int) -> list[Line]:
    """What is added to a step, in microseconds: small enough to be seen in a tiny step only."""
    _, processor = in_this_process(rounds, tiny=True)
    lines = []
    for name, used in processor.items():
        beyond = paired(used, processor[PLAIN], lambda value, base: 1e6 * (value - base))
        shown = ("", "") if name == PLAIN else (with_interval(beyond, ".0f", " µs"), f"{max(beyond[2], 0) / 10:.1f} ms")
        lines.append(Line(name, (median(used, ".0f", "µs", 1e6), *shown)))
    return lines


def as_processes(rounds: int) -> list[Line]:
    """`python SCRIPT` and `thunderstone run SCRIPT`, which print the time of their step."""
    steps: dict[str, list[tuple[float, float]]] = {}
    processor: dict[str, list[float]] = {}

    def measure(name: str, *start: str) -> float:
        wall, used, output = run(*start, __file__, "--one-run")
        processor.setdefault(name, []).append(used)
        first, second = output.split()[-2:]
        steps.setdefault(name, []).append((float(first), float(second)))
        return wall

    names = {"python SCRIPT": (sys.executable,), "thunderstone run SCRIPT": (thunderstone_command(), "run")}
    interleaved({name: (lambda n=name, s=start: measure(n, *s)) for name, start in names.items()}, rounds)
    base, lines = "python SCRIPT", []
    for name in names:
        (step_wall, step_used), (base_wall, base_used) = (zip(*steps[key][1:], strict=True) for key in (name, base))
        lines.append(_line(f"{name}: a step", step_wall, base_wall, step_used, base_used, name == base))
    beyond = paired(processor["thunderstone run SCRIPT"][1:], processor[base][1:], lambda value, base: value - base)
    lines.append(Line("thunderstone run SCRIPT: start and end, once", (with_interval(beyond, ".2f", " s"), "", "", "")))
    return lines


def _line(name: str, wall: Any, wall_base: Any, used: Any, used_base: Any, is_base: bool) -> Line:
    ratio = paired(used, used_base)
    return Line(
        name,
        (
            median(used, ".2f", "ms", 1e3),
            "" if is_base else with_interval(ratio, ".4f"),
            "" if is_base else with_interval(paired(wall, wall_base), ".4f"),
            "" if is_base else verdict(ratio, LIMIT),
        ),
    )


def main() -> None:
    if "--one-run" in sys.argv:
        print(*train([]))
        return
    options = arguments(__doc__, rounds=25)
    torch.set_num_threads(1)
    report(
        "Overhead of what is not used",
        ("Training", "Processor time", "Ratio", "Ratio, wall-clock time", "Limit"),
        [*of_a_long_step(options.rounds), *as_processes(max(3, options.rounds // 2))],
        f"A step of a residual network on 32 images, one thread. Of every {STEPS} steps the time that a tenth of "
        f"them stays below, which what else the machine does disturbs least; medians over {options.rounds} interleaved "
        "rounds (half as many for processes) and 95% bootstrap intervals of paired ratios.",
        options.write,
    )
    report(
        "Overhead of what is not used, in microseconds",
        ("Training", "Processor time of a tiny step", "Beyond plain", "At most 1% of steps longer than"),
        of_a_tiny_step(options.rounds),
        "A linear layer on two images: what is not seen beside a long step is seen beside this one. "
        f"{TINY_STEPS} steps in each round, otherwise as above; the last column takes the upper end of the interval.",
        options.write,
    )


if __name__ == "__main__":
    main()
