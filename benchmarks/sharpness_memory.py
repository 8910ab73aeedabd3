"""What every method of the sharpness family holds beyond plain training.

Peak resident memory of processes of their own. SAM, its relatives and MESA are measured in copies of the weights, on a
network whose weights outweigh everything else; SAF against the size it announces, on a small network with many samples
and classes. Linux only.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import torch
from processes import resident, run
from side_by_side import Line, arguments, report
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from training_runs import WIDE, Classifier, train, wide_network

from thunderstone import Method
from thunderstone_sharpness import ASAM, IGNITE, MESA, SAF, SAM, GradientNorm

BATCH = 8
REPEATS = 3
SAMPLES, CLASSES, EPOCHS_BACK = 32768, 1000, 3  # of SAF's memory: 250 MiB in float16

METHODS: dict[str, Callable[[], list[Method]]] = {
    "plain": list,
    "SAM": lambda: [SAM()],
    "ASAM": lambda: [ASAM()],
    "GradientNorm": lambda: [GradientNorm()],
    "MESA": lambda: [MESA(start_epoch=0, output="network")],
    "MESA, switched off": lambda: [MESA(weight=0.0, output="network")],
    "IGNITE": lambda: [IGNITE(output="network")],
}


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)


def adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


OPTIMIZERS = {"SGD": sgd, "AdamW": adamw}


def of_weights(name: str, optimizer: str) -> str:
    """Bytes at the peak of three steps beyond those before them."""
    module = Classifier(wide_network(), OPTIMIZERS[optimizer])
    vectors, labels = torch.randn(3 * BATCH, WIDE), torch.randint(0, 10, (3 * BATCH,))
    methods = METHODS[name]()
    before = resident("VmRSS")
    train(module, DataLoader(TensorDataset(vectors, labels), batch_size=BATCH), list(methods))
    return str(resident("VmHWM") - before)


def of_samples(name: str, _: str) -> str:
    """The same of as many epochs as fill SAF's memory; and the bytes that it has then."""
    module = Classifier(nn.Linear(32, CLASSES), sgd)
    vectors, labels = torch.randn(SAMPLES, 32), torch.randint(0, CLASSES, (SAMPLES,))
    saf = SAF(epochs_back=EPOCHS_BACK, start_epoch=EPOCHS_BACK, output="network")
    before = resident("VmRSS")
    loader = DataLoader(TensorDataset(vectors, labels), batch_size=64, shuffle=True)
    train(module, loader, [saf] if name == "SAF" else [], epochs=EPOCHS_BACK + 2)
    peak = resident("VmHWM") - before
    kept = sum(tensor.nbytes for tensor in saf.state_dict().values())
    return f"{peak} {kept}"


PARTS = {"weights": of_weights, "samples": of_samples}


def apart(part: str, name: str, optimizer: str = "SGD") -> list[float]:
    """What a part prints, the median of some processes of its own."""
    runs = [run(sys.executable, __file__, "--only", part, name, optimizer)[2] for _ in range(REPEATS)]
    numbers = [[float(word) for word in printed.splitlines()[-1].split()] for printed in runs]
    return [statistics.median(column) for column in zip(*numbers, strict=True)]


def in_copies() -> list[Line]:
    """A line an optimizer and method."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in wide_network().parameters())
    found = []
    for optimizer in OPTIMIZERS:
        peaks = {name: apart("weights", name, optimizer)[0] / weights for name in METHODS}
        for name, peak in peaks.items():
            beyond = "" if name == "plain" else f"{peak - peaks['plain']:+.2f}"
            found.append(Line(f"{optimizer}, {name}", (f"{peak:.2f}", beyond)))
    return found


def against_the_announcement() -> list[Line]:
    """One line: SAF."""
    plain, _ = apart("samples", "plain")
    peak, kept = apart("samples", "SAF")
    return [
        Line("SAF", (f"{kept / 2**20:.1f} MiB", f"{(peak - plain) / 2**20:.1f} MiB", f"{(peak - plain) / kept:.2f}"))
    ]


def main() -> None:
    if "--only" in sys.argv:
        torch.set_num_threads(1)
        part, name, optimizer = sys.argv[-3:]
        print(PARTS[part](name, optimizer))
        return
    options = arguments(__doc__, rounds=1)
    report(
        "The sharpness family's memory",
        ("Optimizer, training", "Peak, in copies of the weights", "Beyond plain"),
        in_copies(),
        "Peak resident memory of three steps beyond what the process held with the network built; a network of two "
        f"wide layers, {2 * WIDE * WIDE / 1e6:.0f} million weights, batches of {BATCH}; medians of {REPEATS} runs.",
        options.write,
    )
    report(
        "SAF's memory",
        ("Training", "Announced", "Peak beyond plain", "Ratio"),
        against_the_announcement(),
        f"{SAMPLES} samples of {CLASSES} classes, {EPOCHS_BACK} epochs back in float16, on a single linear layer, "
        f"trained until every entry is filled; medians of {REPEATS} processes.",
        options.write,
    )


if __name__ == "__main__":
    main()
