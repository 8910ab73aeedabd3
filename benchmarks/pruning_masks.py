"""What enforcing masks costs a step, in time and memory, beside the plain step and Lightning's ModelPruning.

The same residual network as in the benchmark of SAM's step, trained plain; with 80% of its convolution and linear
weights masked by Thunderstone; and with ModelPruning, which computes each weight anew from an original and a mask in
every forward pass. All variants train the same weights; ModelPruning prunes once, before the first step.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelPruning
from processes import resident, run
from side_by_side import Line, arguments, interleaved, median, paired, report, verdict, with_interval
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from training_runs import WIDE, Classifier, images, residual_network, step_time, wide_network

import thunderstone

STEPS = 10
LIMIT = 1.03
AMOUNT = 0.8
BATCH = 8

Variant = Callable[[nn.Module], list[pl.Callback]]


class Masked(thunderstone.Method):
    """Masks the smallest 80% of every matrix and convolution when training starts."""

    name = "masked"
    exclusive = frozenset({"masks"})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        masks = {}
        for name, parameter in pl_module.named_parameters():
            if parameter.dim() > 1:
                threshold = parameter.detach().abs().flatten().kthvalue(int(AMOUNT * parameter.numel())).values
                masks[name] = parameter.detach().abs() > threshold
        self.masks.set(masks)


def pruning(network: nn.Module) -> list[pl.Callback]:
    """ModelPruning over the same weights, once and before the first step."""
    weights = [(m, "weight") for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    callback = ModelPruning(
        "l1_unstructured",
        weights,
        amount=AMOUNT,
        apply_pruning=False,
        use_lottery_ticket_hypothesis=False,
        make_pruning_permanent=False,
        verbose=0,
    )

    class Once(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            callback.apply_pruning(AMOUNT)

    return [callback, Once()]


VARIANTS: dict[str, Variant] = {
    "plain": lambda network: [],
    "Thunderstone": lambda network: [Masked()],
    "ModelPruning": pruning,
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
}


def measured(
    name: str, optimizer: str, network: Callable[[], nn.Module], loader: Any, steps: int
) -> tuple[float, float]:
    """Wall-clock and processor seconds of a step of one variant."""
    torch.manual_seed(0)
    built = network()
    return step_time(Classifier(built, OPTIMIZERS[optimizer]), loader, steps, VARIANTS[name](built))


def compared(rounds: int, network: Callable[[], nn.Module], loader: Any, steps: int) -> list[Line]:
    """A line for each variant and optimizer: step time, ratios to the plain step and to Thunderstone's."""
    lines = []
    for optimizer in OPTIMIZERS:
        processor: dict[str, list[float]] = {name: [] for name in VARIANTS}

        def measure(name: str, optimizer: str, into: list[float]) -> float:
            wall, used = measured(name, optimizer, network, loader, steps)
            into.append(used)
            return wall

        wall = interleaved({name: partial(measure, name, optimizer, processor[name]) for name in VARIANTS}, rounds)
        used = {name: values[1:] for name, values in processor.items()}  # without the round that does not count
        for name in VARIANTS:
            ratio = paired(used[name], used["plain"])
            lines.append(
                Line(
                    f"{optimizer}, {name}",
                    (
                        median(used[name], ".2f", "ms", 1e3),
                        with_interval(ratio) if name != "plain" else "",
                        with_interval(paired(wall[name], wall["plain"])) if name != "plain" else "",
                        verdict(ratio, LIMIT) if name == "Thunderstone" else "",
                        with_interval(paired(used["Thunderstone"], used[name])) if name == "ModelPruning" else "",
                    ),
                )
            )
    return lines


# -- memory ------------------------------------------------------------------------------------------------------------


def peak_bytes(name: str, optimizer: str) -> int:
    """Peak resident memory of a fresh process that trains three steps, beyond what it held before the first."""
    _, _, printed = run(sys.executable, __file__, "--peak-of", name, "--optimizer", optimizer)
    return int(printed.split()[-1])


def print_peak(name: str, optimizer: str) -> None:
    """What `peak_bytes` starts; Linux, where the peak can be read."""
    torch.set_num_threads(1)
    vectors, labels = torch.randn(3 * BATCH, WIDE), torch.randint(0, 10, (3 * BATCH,))
    data = DataLoader(TensorDataset(vectors, labels), batch_size=BATCH)
    network = wide_network()
    callbacks = VARIANTS[name](network)
    before = resident("VmRSS")
    step_time(Classifier(network, OPTIMIZERS[optimizer]), data, 1, callbacks)
    print(resident("VmHWM") - before)


def memory() -> list[Line]:
    """A line for each variant and optimizer: peak memory in copies of the weights, and beyond that of plain ones."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in wide_network().parameters())
    lines = []
    for optimizer in OPTIMIZERS:
        peaks = {name: peak_bytes(name, optimizer) / weights for name in VARIANTS}
        beyond = {name: peak - peaks["plain"] for name, peak in peaks.items()}
        for name, peak in peaks.items():
            share = f"{beyond['Thunderstone'] / beyond[name]:.2f}" if name == "ModelPruning" else ""
            shown = f"{beyond[name]:+.2f}" if name != "plain" else ""
            lines.append(Line(f"{optimizer}, {name}", (f"{peak:.2f}", shown, share)))
    return lines


def main() -> None:
    # ModelPruning says that it does nothing by itself.
    warnings.filterwarnings("ignore", category=UserWarning)
    if "--peak-of" in sys.argv:
        print_peak(sys.argv[2], sys.argv[4])
        return
    options = arguments(__doc__, rounds=15)
    torch.set_num_threads(1)
    columns = (
        "Optimizer, training",
        "Step, processor time",
        "Ratio to plain",
        "Ratio, wall-clock time",
        "Limit",
        "Thunderstone's time by this one's",
    )
    loader = images((STEPS + 2) * 64, batch_size=64)
    report(
        "Masked training",
        columns,
        compared(options.rounds, lambda: residual_network(width=32, blocks=3), loader, STEPS),
        f"A residual network of 57 thousand weights, batches of 64 images of 16 × 16 pixels, one thread, {AMOUNT:.0%} "
        f"of its matrices and convolutions masked; {options.rounds} interleaved rounds of {STEPS} steps, medians and "
        "95% bootstrap intervals of paired ratios.",
        options.write,
    )
    report(
        "Masked training: memory",
        ("Optimizer, training", "Peak, in copies of the weights", "Beyond plain", "Thunderstone's by this one's"),
        memory(),
        "Peak resident memory of three steps beyond what the process held with the network built; a network of two "
        f"wide layers, {2 * WIDE * WIDE / 1e6:.0f} million weights, batches of {BATCH}, each in a process of its own.",
        options.write,
    )


if __name__ == "__main__":
    main()
