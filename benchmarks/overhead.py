"""What Thunderstone costs a run that does not use it.

Three things are compared with plain Lightning, by the time of a training step: Thunderstone installed, so that
Lightning asks it for callbacks; a method attached that is switched off (SAM with rho=0, and with it exact resume); and
`thunderstone run SCRIPT` with nothing to attach, also by what it adds to the time of the whole process.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from processes import run, thunderstone_command
from side_by_side import Line, arguments, interleaved, median, paired, report, verdict, with_interval
from training_runs import Classifier, images, residual_network, step_time

import thunderstone

STEPS = 40
LIMIT = 1.01
QUANTILE = 0.1
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


def train(callbacks: list[Any]) -> tuple[float, float]:
    """Wall-clock and processor seconds of a step."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module = Classifier(residual_network(width=16, blocks=3), sgd)
    return step_time(module, images((STEPS + 2) * 32, batch_size=32), STEPS, callbacks, quantile=QUANTILE)


def in_this_process(rounds: int) -> list[Line]:
    """Plain, installed, and attached but switched off."""
    processor: dict[str, list[float]] = {}

    def measure(name: str, callbacks: Callable[[], list[Any]], hidden: bool) -> float:
        if hidden:
            with not_installed():
                wall, used = train(callbacks())
        else:
            wall, used = train(callbacks())
        processor.setdefault(name, []).append(used)
        return wall

    variants: dict[str, tuple[Callable[[], list[Any]], bool]] = {
        "plain Lightning": (list, True),
        "Thunderstone installed": (list, False),
        "SAM attached, rho=0": (lambda: [thunderstone.create("sam", rho=0.0)], False),
    }
    wall = interleaved({name: (lambda n=name, v=value: measure(n, *v)) for name, value in variants.items()}, rounds)
    processor = {name: values[1:] for name, values in processor.items()}  # the round that does not count
    base = "plain Lightning"
    return [_line(name, wall[name], wall[base], processor[name], processor[base], name == base) for name in variants]


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
        [*in_this_process(options.rounds), *as_processes(max(3, options.rounds // 2))],
        f"A step of a residual network on 32 images, one thread. Of every {STEPS} steps the time that a tenth of "
        f"them stays below, which what else the machine does disturbs least; medians over {options.rounds} interleaved "
        "rounds (half as many for processes) and 95% bootstrap intervals of paired ratios.",
        options.write,
    )


if __name__ == "__main__":
    main()
