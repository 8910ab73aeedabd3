"""Every pruning method on one network: accuracy at four sparsities after as many updates, beside what it cost.

    python benchmarks/pruning_methods.py                             scikit-learn's digits, minutes
    python benchmarks/pruning_methods.py --data mnist_t10k/ --write  MNIST's test images in idx files, and RESULTS.md
    python benchmarks/pruning_methods.py --only SNIP GraNet          these lines anew, all others as they were kept

Every training is kept in pruning_methods.json, so that a line can be measured anew, or a method added, without the
others. Cost is counted, not timed: passes of a batch forward and backward (forward alone is a third), as multiples of
those of plain training.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from side_by_side import Line, report
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from training_runs import train

from thunderstone_pruning import (
    IMP,
    SNIP,
    BiP,
    GradualPruning,
    GraNet,
    RandomPruning,
    RandomSearch,
    StructuredPruning,
    sparsity_report,
)

KEPT = Path(__file__).with_name("pruning_methods.json")
SPARSITIES = (0.8, 0.9, 0.95, 0.98)
BATCH, CHANNELS = 64, (16, 32, 64)
STEPS = 250
INTERVAL = 10  # updates between two changes of a mask: as large a part of the training as in the papers
# With ten rounds to a tenth, the rounds that leave 20, 10, 5 and 2% of the weights are nearly whole numbers.
FRACTION, ROUNDS = 1 - 0.1**0.1, {0.8: 7, 0.9: 10, 0.95: 13, 0.98: 17}
DENSE = "dense"
IDX_FILES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


@dataclass(frozen=True)
class Setting:
    """A line of the table.

    Attributes:
        make: Density and seed → the method.
        pretrained: Begins with the weights that dense training ends with; its passes count.
    """

    make: Callable[[float, int], pl.Callback]
    pretrained: bool = False


def ratio_for(density: float) -> float:
    """The share of channels to remove from every layer of `ConvNet` for this share of its weights to be left."""

    def left(ratio: float) -> int:
        one, two, three = (channels - round(ratio * channels) for channels in CHANNELS)
        return 9 * (one + one * two + two * three) + 10 * three

    return min((step / 1000 for step in range(1000)), key=lambda ratio: abs(left(ratio) - density * left(0)))


SETTINGS: dict[str, Setting] = {
    "RandomPruning, uniform": Setting(lambda d, s: RandomPruning(d, "uniform", seed=s, empty="keep_one")),
    "RandomPruning, ERK": Setting(lambda d, s: RandomPruning(d, "erk", seed=s, empty="keep_one")),
    "RandomSearch, 10 candidates": Setting(
        lambda d, s: RandomSearch(d, 10, distribution="erk", seed=s, empty="keep_one")
    ),
    "SNIP": Setting(lambda d, s: SNIP(d, empty="keep_one")),
    "GradualPruning": Setting(lambda d, s: GradualPruning(d, interval=INTERVAL)),
    "GraNet": Setting(lambda d, s: GraNet(d, interval=INTERVAL)),
    "GraNet, sparse to sparse": Setting(lambda d, s: GraNet(d, initial_density=0.5, interval=INTERVAL, seed=s)),
    "BiP": Setting(lambda d, s: BiP(d)),
    "BiP, from the dense network": Setting(lambda d, s: BiP(d), pretrained=True),
    "StructuredPruning, of the dense network": Setting(
        lambda d, s: StructuredPruning(ratio_for(d), structure=None), pretrained=True
    ),
    "IMP, one round": Setting(lambda d, s: IMP(1, 1 - d, "5%", tickets=None, empty="keep_one")),
}
# Its rounds pass through all sparsities, so it is trained once a seed.
ITERATED = "IMP"


@dataclass
class Outcome:
    """One training.

    Attributes:
        updates: Of one round.
        density: Share of the dense network's prunable weights that is left, counted.
        flops: Share of its floating-point operations in a forward pass that is left.
        passes: Of a batch forward and backward, as a multiple of `updates`.
        accuracy: On the test images after the last update, in percent.
    """

    data: str
    updates: int
    method: str
    sparsity: float
    seed: int
    density: float
    flops: float
    passes: float
    accuracy: float


Images = tuple[Tensor, Tensor, Tensor, Tensor]


def digits() -> Images:
    """Scikit-learn's digits: 1200 to train, 597 to test."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))
    x = torch.tensor(raw.images[order] / 16.0, dtype=torch.float32)[:, None]
    y = torch.tensor(raw.target[order])
    return x[:1200], y[:1200], x[1200:], y[1200:]


def idx_files(folder: Path) -> Images:
    """MNIST's 10,000 test images, averaged to 14 × 14 pixels: the first 8000 to train, the last 2000 to test."""
    with gzip.open(folder / IDX_FILES[0]) as file:
        x = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / IDX_FILES[1]) as file:
        y = np.frombuffer(file.read(), np.uint8, offset=8)
    images = functional.avg_pool2d(torch.tensor(x / 255.0, dtype=torch.float32), 2)
    labels = torch.tensor(y, dtype=torch.int64)
    return images[:8000], labels[:8000], images[8000:], labels[8000:]


class Passes:
    """Batches that have gone through the network; outside of the module, whose state a second pass puts back."""

    forward, backward = 0, 0

    @classmethod
    def count(cls) -> None:
        """One more; backward too, where gradients are wanted."""
        cls.forward += 1
        cls.backward += torch.is_grad_enabled()

    @classmethod
    def take(cls) -> float:
        """Passes forward and backward since the last call; of three parts, two are backward."""
        total = (cls.forward + 2 * cls.backward) / 3
        cls.forward = cls.backward = 0
        return total


class ConvNet(pl.LightningModule):
    """Three convolutions with batch normalisation and a linear layer: 24 thousand weights. Knows of no method."""

    def __init__(self, updates: int) -> None:
        super().__init__()
        one, two, three = CHANNELS
        self.net = nn.Sequential(
            nn.Conv2d(1, one, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(one), nn.ReLU(),
            nn.Conv2d(one, two, 3, padding=1, bias=False), nn.BatchNorm2d(two), nn.ReLU(),
            nn.Conv2d(two, three, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(three), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(three, 10),
        )  # fmt: skip
        self.updates = updates

    def training_step(self, batch: list[Tensor]) -> Tensor:
        Passes.count()
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.updates)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Ends(pl.Callback):
    """Accuracy, density, FLOPs and passes at the end of every round. Has no state that belongs to a run."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.found: list[dict[str, float]] = []

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        net: Any = pl_module.net
        modes = [(layer, layer.training) for layer in net.modules()]
        with torch.no_grad():
            accuracy = 100 * float((net.eval()(self.images[2]).argmax(1) == self.images[3]).float().mean())
            for layer, training in modes:
                layer.training = training
        left, whole = (sparsity_report(n, example_inputs=self.images[2][:1]) for n in (net, ConvNet(1).net))
        assert left.effective_flops is not None
        assert whole.flops is not None
        self.found.append(
            {
                "density": left.remaining / whole.weights,
                "flops": left.effective_flops / whole.flops,
                "passes": Passes.take(),
                "accuracy": accuracy,
            }
        )


def trained(images: Images, seed: int, epochs: int, methods: list[pl.Callback], start: Any = None) -> tuple[Any, Any]:
    """Train once; returns what `Ends` found in each round, and the module's state at the end."""
    pl.seed_everything(seed, verbose=False)
    loader = DataLoader(TensorDataset(*images[:2]), batch_size=BATCH, shuffle=True, drop_last=True)
    updates = epochs * len(loader)
    module, ends = ConvNet(updates), Ends(images)
    if start is not None:
        module.load_state_dict(start)
    Passes.take()
    train(module, loader, [*methods, ends], epochs)
    found = [{**one, "passes": one["passes"] / updates} for one in ends.found]
    return found, {name: value.clone() for name, value in module.state_dict().items()}


def measured(
    images: Images, source: str, seed: int, epochs: int, wanted: Callable[[str, float], bool]
) -> Iterator[Outcome]:
    """The wanted lines of one seed, each as soon as it is there."""
    updates = epochs * (len(images[1]) // BATCH)
    weights, before = None, 0.0
    if wanted(DENSE, 0.0) or any(
        wanted(n, s) for n, setting in SETTINGS.items() for s in SPARSITIES if setting.pretrained
    ):
        (dense,), weights = trained(images, seed, epochs, [])
        before = dense["passes"]
        yield Outcome(source, updates, DENSE, 0.0, seed, **dense)
    for name, setting in SETTINGS.items():
        for sparsity in SPARSITIES:
            if wanted(name, sparsity):
                start = weights if setting.pretrained else None
                rounds, _ = trained(images, seed, epochs, [setting.make(1 - sparsity, seed)], start)
                passes = sum(one["passes"] for one in rounds) + before * setting.pretrained
                yield Outcome(source, updates, name, sparsity, seed, **{**rounds[-1], "passes": passes})
    if any(wanted(ITERATED, sparsity) for sparsity in SPARSITIES):
        method = IMP(max(ROUNDS.values()), FRACTION, "5%", tickets=None, empty="keep_one")
        rounds, _ = trained(images, seed, epochs, [method])
        for sparsity, number in ROUNDS.items():
            passes = sum(one["passes"] for one in rounds[: number + 1])
            yield Outcome(source, updates, ITERATED, sparsity, seed, **{**rounds[number], "passes": passes})


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{mean(values):.1f} ± {stdev(values) if len(values) > 1 else 0.0:.1f}"


def lines_of(outcomes: list[Outcome]) -> list[Line]:
    """A line for each method: passes, and accuracy at each sparsity."""
    lines = []
    for name in (DENSE, *SETTINGS, ITERATED):
        own = [outcome for outcome in outcomes if outcome.method == name]
        if not own:
            continue
        passes = sorted({f"{outcome.passes:.1f}" for outcome in own}, key=float)
        cost = passes[0] if len(passes) == 1 else f"{passes[0]} to {passes[-1]}"
        if name == DENSE:
            lines.append(
                Line(f"dense: {spread([outcome.accuracy for outcome in own])}", (cost, *[""] * len(SPARSITIES)))
            )
            continue
        groups = [[outcome.accuracy for outcome in own if outcome.sparsity == sparsity] for sparsity in SPARSITIES]
        lines.append(Line(name, (cost, *(spread(group) if group else "" for group in groups))))
    return lines


def claim(outcomes: list[Outcome]) -> list[Line]:
    """BiP beside IMP: the difference in accuracy, seed by seed, and how many times the passes IMP took."""
    lines = []
    for name in (name for name in SETTINGS if name.startswith("BiP")):
        for sparsity in SPARSITIES:
            own, other = (
                {o.seed: o for o in outcomes if (o.method, o.sparsity) == (method, sparsity)}
                for method in (name, ITERATED)
            )
            seeds = sorted(own.keys() & other.keys())
            if not seeds:
                continue
            differences = [own[seed].accuracy - other[seed].accuracy for seed in seeds]
            cheaper = mean(other[seed].passes for seed in seeds) / mean(own[seed].passes for seed in seeds)
            deviation = stdev(differences) if len(seeds) > 1 else 0.0
            lines.append(
                Line(
                    f"{name}, {sparsity:.0%}",
                    (
                        spread([own[seed].accuracy for seed in seeds]),
                        spread([other[seed].accuracy for seed in seeds]),
                        f"{mean(differences):+.1f} ± {deviation:.1f}",
                        f"{cheaper:.1f}",
                    ),
                )
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with MNIST's t10k idx files, instead of digits")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="updates of a training, to whole epochs (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=(DENSE, *SETTINGS, ITERATED), help="measure these lines anew")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md, in place of older ones")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = idx_files(options.data) if options.data else digits()
    source = "MNIST's test images, 14 × 14 pixels" if options.data else "scikit-learn's digits"
    epochs = max(1, round(options.steps * BATCH / len(images[1])))
    updates = epochs * (len(images[1]) // BATCH)
    every = [Outcome(**one) for one in json.loads(KEPT.read_text(encoding="utf-8"))] if KEPT.exists() else []
    here = [outcome for outcome in every if (outcome.data, outcome.updates) == (source, updates)]
    others = [outcome for outcome in every if outcome not in here]
    here = [outcome for outcome in here if outcome.method not in (options.only or ())]
    for seed in range(options.seeds):
        have = {(outcome.method, outcome.sparsity) for outcome in here if outcome.seed == seed}

        def wanted(method: str, sparsity: float, have: set[tuple[str, float]] = have) -> bool:
            return (method, sparsity) not in have and method in (options.only or (DENSE, *SETTINGS, ITERATED))

        for new in measured(images, source, seed, epochs, wanted):
            print(f"seed {seed}, {new.method}, {new.sparsity:.0%}: {new.accuracy:.1f}%, {new.passes:.2f} passes")
            if (new.method, new.sparsity) not in have:
                here.append(new)
                kept = [asdict(outcome) for outcome in (*others, *here)]
                KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    outcomes = [outcome for outcome in here if outcome.seed < options.seeds]
    seeds = len({outcome.seed for outcome in outcomes})
    report(
        "Pruning methods",
        ("Method", "Passes", *(f"{sparsity:.0%} sparse" for sparsity in SPARSITIES)),
        lines_of(outcomes),
        f"{source}: {len(images[1])} to train, {len(images[3])} to test; a network of three convolutions with batch "
        f"normalisation, 24 thousand weights; SGD with momentum, {updates} updates on batches of {BATCH} for each "
        "training and each round of IMP, cosine schedule; methods with their defaults, a mask changing every "
        f"{INTERVAL} updates where it does, IMP rewound to 5% of training; StructuredPruning removes channels until as "
        "many weights are left. Test accuracy in % after the last update, "
        f"mean ± standard deviation over {seeds} seeds. Passes: of a batch forward and backward, counted, as "
        "multiples of plain training.",
        options.write,
    )
    report(
        "BiP beside IMP",
        ("Method, sparsity", "Accuracy", "IMP's", "Difference by seed", "IMP's passes by this one's"),
        claim(outcomes),
        "From the table above. Zhang et al. 2022 report BiP to be 2 to 7 times cheaper than IMP at the same accuracy; "
        "they begin with a trained network. Before training, the largest magnitudes over all layers are no good mask: "
        "PyTorch draws weights smaller the wider a layer is, so that at 95% the widest layer is all but empty.",
        options.write,
    )


if __name__ == "__main__":
    main()
