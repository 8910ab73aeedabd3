"""SAM's step against the plain step, and against two other ways to have SAM in Lightning.

Four trainings of one residual network, whose forward and backward passes dominate: plain; with Thunderstone's SAM;
with SAM written by hand into a `training_step` with manual optimization; and with pytorch_optimizer's SAM, driven from
the same kind of `training_step` (left out where that package is not installed: pip install pytorch_optimizer).
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from processes import resident, run
from side_by_side import Line, arguments, interleaved, median, paired, report, verdict, with_interval
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from training_runs import WIDE, Classifier, images, residual_network, step_time, wide_network

import thunderstone

STEPS = 8
LIMIT = 2.05
BATCH = 8


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


class HandWrittenSAM(Classifier):
    """SAM as it is usually written for Lightning: manual optimization, weights cloned and copied back."""

    def __init__(self, network: nn.Module, make_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
        super().__init__(network, make_optimizer)
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()
        loss = self.loss(batch)
        self.log("loss", loss)
        optimizer.zero_grad()
        self.manual_backward(loss)
        parameters = [parameter for parameter in self.parameters() if parameter.grad is not None]
        with torch.no_grad():
            norm = torch.stack([parameter.grad.norm() for parameter in parameters]).norm()
            kept = [parameter.clone() for parameter in parameters]
            for parameter in parameters:
                parameter.add_(parameter.grad, alpha=0.05 / float(norm))
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        with torch.no_grad():
            for parameter, old in zip(parameters, kept, strict=True):
                parameter.copy_(old)
        optimizer.step()


class PytorchOptimizerSAM(Classifier):
    """pytorch_optimizer's SAM, driven by its two steps; multi-tensor, which is its faster mode."""

    def __init__(self, network: nn.Module, base: type[torch.optim.Optimizer], **settings: Any) -> None:
        from pytorch_optimizer import SAM

        super().__init__(network, lambda parameters: SAM(parameters, base, rho=0.05, foreach=True, **settings))
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()
        sam = optimizer.optimizer
        loss = self.loss(batch)
        self.log("loss", loss)
        self.manual_backward(loss)
        sam.first_step(zero_grad=True)
        self.manual_backward(self.loss(batch))
        sam.second_step(zero_grad=True)


def modules(make: Callable[[], nn.Module], optimizer: str) -> dict[str, Callable[[], tuple[Classifier, list[Any]]]]:
    """Name → a new module and the callbacks it is trained with, for each variant that can run here."""
    torch_one = sgd if optimizer == "SGD" else adamw
    variants: dict[str, Callable[[], tuple[Classifier, list[Any]]]] = {
        "plain": lambda: (Classifier(make(), torch_one), []),
        "Thunderstone": lambda: (Classifier(make(), torch_one), [thunderstone.create("sam", rho=0.05)]),
        "written by hand": lambda: (HandWrittenSAM(make(), torch_one), []),
    }
    try:
        import pytorch_optimizer  # noqa: F401
    except ModuleNotFoundError:
        print("pytorch_optimizer is not installed, so it is left out.", file=sys.stderr)
        return variants
    if optimizer == "SGD":
        settings: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
        variants["pytorch_optimizer"] = lambda: (PytorchOptimizerSAM(make(), torch.optim.SGD, **settings), [])
    else:
        variants["pytorch_optimizer"] = lambda: (PytorchOptimizerSAM(make(), torch.optim.AdamW, lr=1e-3), [])
    return variants


def measured(
    optimizer: str, rounds: int, steps: int, loader: Any
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall-clock and processor seconds of a step, of each variant in each round."""
    processor: dict[str, list[float]] = {}

    def measure(name: str, build: Callable[[], tuple[Classifier, list[Any]]]) -> float:
        torch.manual_seed(0)
        module, callbacks = build()
        wall, used = step_time(module, loader, steps, callbacks)
        processor.setdefault(name, []).append(used)
        return wall

    variants = modules(lambda: residual_network(width=32, blocks=3), optimizer)
    wall = interleaved({name: (lambda n=name, b=build: measure(n, b)) for name, build in variants.items()}, rounds)
    return wall, {name: values[1:] for name, values in processor.items()}  # without the round that does not count


def times(optimizer: str, rounds: int, steps: int) -> list[Line]:
    """A line a variant: step time, and ratios to the plain step in wall-clock and processor time."""
    wall, processor = measured(optimizer, rounds, steps, images((steps + 2) * 128, batch_size=128))
    lines = []
    for name in wall:
        ratio = paired(processor[name], processor["plain"])
        against = paired(processor["Thunderstone"], processor[name])
        lines.append(
            Line(
                f"{optimizer}, {name}",
                (
                    median(processor[name], ".1f", "ms", 1e3),
                    with_interval(ratio) if name != "plain" else "",
                    with_interval(paired(wall[name], wall["plain"])) if name != "plain" else "",
                    verdict(ratio, LIMIT) if name == "Thunderstone" else "",
                    with_interval(against) if name not in ("plain", "Thunderstone") else "",
                ),
            )
        )
    return lines


def fixed_costs(rounds: int, steps: int = 60) -> list[Line]:
    """A line a variant: a step on tiny images, where next to nothing is computed, and what SAM adds to two of them."""
    _, processor = measured("SGD", rounds, steps, images((steps + 2) * 2, batch_size=2, size=4))
    lines = []
    for name, values in processor.items():
        beyond = paired(values, processor["plain"], lambda value, base: 1e3 * (value - 2 * base))
        shown = with_interval(beyond, ".2f", " ms") if name != "plain" else ""
        lines.append(Line(name, (median(values, ".2f", "ms", 1e3), shown)))
    return lines


# -- memory ------------------------------------------------------------------------------------------------------------


def peak_bytes(name: str, optimizer: str) -> int:
    """Peak resident memory of a fresh process that trains three steps, beyond what it held before the first."""
    _, _, printed = run(sys.executable, __file__, "--peak-of", name, "--optimizer", optimizer)
    return int(printed.split()[-1])


def print_peak(name: str, optimizer: str) -> None:
    """What `peak_bytes` starts; Linux, where the peak can be reset."""
    torch.set_num_threads(1)
    module, callbacks = modules(wide_network, optimizer)[name]()
    vectors, labels = torch.randn(3 * BATCH, WIDE), torch.randint(0, 10, (3 * BATCH,))
    before = resident("VmRSS")
    step_time(module, DataLoader(TensorDataset(vectors, labels), batch_size=BATCH), 1, callbacks)
    print(resident("VmHWM") - before)


def memory(optimizer: str) -> list[Line]:
    """A line a variant: peak memory in copies of the weights, and beyond that of plain training."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in wide_network().parameters())
    peaks = {
        name: statistics.median(peak_bytes(name, optimizer) for _ in range(3)) / weights
        for name in modules(wide_network, optimizer)
    }
    return [
        Line(f"{optimizer}, {name}", (f"{peak:.2f}", f"{peak - peaks['plain']:+.2f}" if name != "plain" else ""))
        for name, peak in peaks.items()
    ]


def main() -> None:
    if "--peak-of" in sys.argv:
        print_peak(sys.argv[2], sys.argv[4])
        return
    options = arguments(__doc__, rounds=11)
    torch.set_num_threads(1)
    report(
        "SAM's step",
        (
            "Optimizer, training",
            "Step, processor time",
            "Ratio to plain",
            "Ratio, wall-clock time",
            "Limit",
            "Thunderstone's time by this one's",
        ),
        [*times("SGD", options.rounds, STEPS), *times("AdamW", options.rounds, STEPS)],
        f"A residual network of 57 thousand weights on batches of 128 images of 16 × 16 pixels, one thread; "
        f"{options.rounds} interleaved rounds of {STEPS} steps, medians and 95% bootstrap intervals of paired ratios.",
        options.write,
    )
    report(
        "SAM's fixed cost",
        ("Training", "Step, processor time", "Beyond two plain steps"),
        fixed_costs(options.rounds),
        "The same network with SGD on two images of 4 × 4 pixels: what is left is bookkeeping, which does not grow "
        "with the batch. Thunderstone's includes that running statistics, random state, metrics and logs see one pass, "
        f"which the other two leave to the user. {options.rounds} interleaved rounds of 60 steps.",
        options.write,
    )
    report(
        "SAM's memory",
        ("Optimizer, training", "Peak, in copies of the weights", "Beyond plain"),
        [*memory("SGD"), *memory("AdamW")],
        "Peak resident memory of three steps beyond what the process held with the network built; a network of two "
        f"wide layers, {2 * WIDE * WIDE / 1e6:.0f} million weights, batches of {BATCH}, each in a process of its own.",
        options.write,
    )


if __name__ == "__main__":
    main()
